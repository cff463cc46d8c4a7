"""Bit allocation: choose a precision for each linear within a budget.

An integer program minimizes the predicted loss.

The prediction is the sum of the linears' individual distances to full precision (`sensitivity.py`). It is first order:
interactions between linears are ignored.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import Bounds, LinearConstraint, milp

from abq_core.mix import MixedLinear, ModelPrecision, PrecisionMix
from abq_core.planning.sensitivity import Sensitivity
from abq_core.precision import Precision

_LARGEST_COEFFICIENT = 1e3  # of the objective, far above the solver's absolute tolerance of 1e-6


class BudgetError(ValueError):
    """A budget that cannot be met, or candidates that cannot be mixed."""


@dataclass(frozen=True)
class Allocation:
    """The result of an allocation.

    precision: a mix, or a uniform precision if all linears have the same.  predicted_kl: sum of the linears' distances,
    in nats.  stored_bits: mean bit planes per weight, without scales.  stored_bytes: of the blocks' linears, with
    scales and zero points.  bit_operations: mean of planes times activation bits per weight.
    chosen: one per linear, in the order of measurement.  uniform: predicted KL of each candidate if all linears have
    it.
    """

    precision: ModelPrecision
    predicted_kl: float
    stored_bits: float
    stored_bytes: int
    bit_operations: float
    chosen: tuple[Sensitivity, ...]
    uniform: Mapping[Precision, float]

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dictionary with the whole mix.

        `spec.read_precision` reads the precision from it.
        """
        mix = {"mix": self.precision.to_dict()} if isinstance(self.precision, PrecisionMix) else {}
        return {
            "precision": str(self.precision),
            "stored_bits": self.stored_bits,
            "information_bits": self.precision.information_bits,
            "weight_bytes": self.stored_bytes,
            "bit_operations": self.bit_operations,
            "predicted_kl": self.predicted_kl,
            "uniform_kl": {str(precision): kl for precision, kl in self.uniform.items()},
            **mix,
        }

    def with_tables(self, head_bits: int | None, embedding_bits: int | None, kl: float = 0.0) -> "Allocation":
        """The same allocation for a model with these bits of LM head and embedding, whose own distance is `kl`."""
        return replace(
            self,
            precision=self.precision.with_tables(head_bits, embedding_bits),
            predicted_kl=self.predicted_kl + kl,
            uniform={one.with_tables(head_bits, embedding_bits): kl + own for one, own in self.uniform.items()},
        )

    def frame(self) -> pd.DataFrame:
        """One row per linear: block, tensor, precision, stored_bits, bit_operations, kl, weights."""
        return pd.DataFrame(
            {
                "block": one.block,
                "tensor": one.name,
                "precision": str(one.precision),
                "stored_bits": one.precision.stored_bits,
                "bit_operations": one.precision.bit_operations,
                "kl": one.kl,
                "weights": one.weights,
            }
            for one in self.chosen
        )


def allocate(
    measured: Sequence[Sensitivity],
    *,
    stored_bits: float | None = None,
    stored_bytes: int | None = None,
    bit_operations: float | None = None,
) -> Allocation:
    """Choose a measured precision for every linear within one budget of memory, and one of bit operations if given.

    Deterministic.
    stored_bits: maximum of the mean bit planes per weight, counting 16 for a linear that is not quantized.
    stored_bytes: maximum bytes of all linears, with scales and zero points.
    bit_operations: maximum of the mean of planes times activation bits per weight. Raises BudgetError.
    """
    options = sorted(measured, key=lambda one: (one.block, one.name, one.stored_bytes, str(one.precision)))
    candidates = dict.fromkeys(one.precision for one in measured)
    check_request(candidates, stored_bits, stored_bytes, bit_operations)
    _check_finite(options)
    weights, budgets = _weights(options), list[_Budget]()
    if stored_bits is not None:
        budgets.append(_Budget.of_mean([one.precision.stored_bits for one in options], stored_bits, options, "bits"))
    else:
        assert stored_bytes is not None
        budgets.append(_Budget([one.stored_bytes for one in options], stored_bytes, "{:,.0f} bytes"))
    if bit_operations is not None:
        products = [one.precision.bit_operations for one in options]
        budgets.append(_Budget.of_mean(products, bit_operations, options, "bit operations"))
    picked = _solve([one.kl for one in options], budgets, _places(options))
    order = {(one.block, one.name): place for place, one in reversed(list(enumerate(measured)))}
    chosen = tuple(sorted((options[i] for i in picked), key=lambda one: order[one.block, one.name]))
    return Allocation(
        precision=_precision(chosen),
        predicted_kl=sum(one.kl for one in chosen),
        stored_bits=sum(one.precision.stored_bits * one.weights for one in chosen) / weights,
        stored_bytes=sum(one.stored_bytes for one in chosen),
        bit_operations=sum(one.precision.bit_operations * one.weights for one in chosen) / weights,
        chosen=chosen,
        uniform={one: kl for one in candidates if (kl := predicted_kl(measured, one)) is not None},
    )


def predicted_kl(measured: Iterable[Sensitivity], precision: ModelPrecision) -> float | None:
    """Sum of the linears' distances at this precision; None if a linear was not measured at it."""
    linears: set[tuple[int, str]] = set()
    known: dict[tuple[int, str], float] = {}
    for one in measured:
        linears.add((one.block, one.name))
        if one.precision == precision.of_linear(one.block, one.name):
            known[one.block, one.name] = one.kl
    return sum(known.values()) if linears and linears == known.keys() else None


def check_request(
    candidates: Collection[Precision],
    stored_bits: float | None = None,
    stored_bytes: int | None = None,
    bit_operations: float | None = None,
) -> None:
    """Raise BudgetError unless candidates can be mixed, one memory budget is set, and all budgets are above 0."""
    if (stored_bits is None) == (stored_bytes is None):
        raise BudgetError("Give one budget of memory: bits per weight, or bytes.")
    for unit, budget in (("bits", stored_bits), ("bytes", stored_bytes), ("bit operations", bit_operations)):
        if budget is not None and not (math.isfinite(budget) and budget > 0):
            raise BudgetError(f"The budget is {budget} {unit}: give a number above 0.")
    if not candidates:
        raise BudgetError("There are no candidates: give the precisions to choose from, such as W2A8, W3A8 and W4A8.")
    shared = {(one.kv_bits, one.head_bits, one.embedding_bits): one for one in candidates}
    if len(shared) > 1:
        first, second = list(shared.values())[:2]
        raise BudgetError(
            f"{first} and {second} cannot be mixed: KV bits, and those of LM head and embedding, must be the same for "
            "all candidates."
        )
    by_act_bits = {one.act_bits: one for one in candidates}
    if len(by_act_bits) > 1 and bit_operations is None:
        first, second = list(by_act_bits.values())[:2]
        raise BudgetError(
            f"{first} and {second} differ in activation bits, which take no memory: give a budget of bit operations "
            f"too, such as {min(one.bit_operations for one in candidates) * 1.5:g} per weight."
        )


@dataclass(frozen=True)
class _Budget:
    """An upper limit of a sum of costs. costs: of each option.  text: an amount as a format.  scale: divides it."""

    costs: Sequence[int]
    most: int
    text: str
    scale: int = 1

    @classmethod
    def of_mean(cls, values: Sequence[int], most: float, options: Sequence[Sensitivity], unit: str) -> "_Budget":
        """A limit of the mean of `values` over weights."""
        weights = _weights(options)
        costs = [value * one.weights for value, one in zip(values, options, strict=True)]
        return cls(
            costs,
            math.floor(min(most, 2.0 * max(values)) * weights * (1 + 1e-12)),
            f"{{:.6g}} {unit} per weight",
            weights,
        )

    def check(self, places: Sequence[Sequence[int]]) -> None:
        """Raise BudgetError if the cheapest option of each linear costs too much."""
        smallest = sum(min(self.costs[i] for i in place) for place in places)
        if self.most < smallest:
            raise BudgetError(
                f"The budget of {self._shown(self.most)} cannot be met: with these candidates the smallest possible is "
                f"{self._shown(smallest)}. Raise the budget, or add a candidate with fewer bits."
            )

    def constraint(self) -> LinearConstraint:
        """The limit for the solver."""
        unit = math.gcd(*self.costs)  # smaller numbers keep the solver's tolerance far below one weight
        return LinearConstraint(np.asarray(self.costs)[None, :] / unit, -np.inf, self.most // unit)

    def is_met(self, picked: Sequence[int]) -> bool:
        """Whether these options are within the limit."""
        return sum(self.costs[i] for i in picked) <= self.most

    def _shown(self, total: int) -> str:
        return self.text.format(total / self.scale)


def _check_finite(options: Iterable[Sensitivity]) -> None:
    for one in options:
        if not math.isfinite(one.kl):
            raise BudgetError(
                f"The distance of {one.name} in block {one.block} at {one.precision} is {one.kl}. "
                "Leave out this candidate."
            )


def _weights(options: Iterable[Sensitivity]) -> int:
    return sum({(one.block, one.name): one.weights for one in options}.values())


def _places(options: Sequence[Sensitivity]) -> list[list[int]]:
    """The positions in `options` of each linear's options."""
    places: dict[tuple[int, str], list[int]] = {}
    for position, one in enumerate(options):
        places.setdefault((one.block, one.name), []).append(position)
    return list(places.values())


def _solve(losses: Sequence[float], budgets: Sequence[_Budget], places: Sequence[Sequence[int]]) -> list[int]:
    """Pick one option per linear: the minimal sum of losses with costs within all budgets. Raises BudgetError."""
    for budget in budgets:
        budget.check(places)
    one_each = np.zeros((len(places), len(losses)))
    for row, place in enumerate(places):
        one_each[row, list(place)] = 1
    result = milp(
        np.asarray(losses) * (_LARGEST_COEFFICIENT / max(max(losses), 1e-300)),
        integrality=np.ones(len(losses)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), *(budget.constraint() for budget in budgets)],
        options={"mip_rel_gap": 0},
    )
    if result.x is None:  # each budget alone can be met
        raise BudgetError(
            "The two budgets cannot be met together. Raise one of them, or add a candidate with few weight bits and "
            "few activation bits, such as W2A4."
        )
    picked = [place[int(np.argmax(result.x[list(place)]))] for place in places]
    assert all(budget.is_met(picked) for budget in budgets)
    return picked


def _precision(chosen: Sequence[Sensitivity]) -> ModelPrecision:
    """The mix, or the uniform precision if all linears have the same."""
    if len({one.precision for one in chosen}) == 1:
        return chosen[0].precision
    return PrecisionMix(tuple(MixedLinear(one.block, one.name, one.precision, one.weights) for one in chosen))
