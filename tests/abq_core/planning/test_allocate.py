"""Bit allocation.

Equal to exhaustive search, monotonic in the budget, clear errors for budgets too small.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from abq_core.mix import PrecisionMix
from abq_core.planning.allocate import BudgetError, allocate, predicted_kl
from abq_core.planning.sensitivity import Sensitivity
from abq_core.precision import Precision

CANDIDATES = [Precision.parse(text) for text in ("W2A8", "W2*A8", "W4A8", "W16A8")]
BOTH = [Precision.parse(text) for text in ("W2A8", "W2A4", "W4A4", "W4A8")]


@st.composite
def measured(draw: st.DrawFn, candidates: Sequence[Precision] = tuple(CANDIDATES)) -> list[Sensitivity]:
    """Up to five linears of different sizes, each at up to four candidates; distances need not fall with bits."""
    found = []
    for number in range(draw(st.integers(1, 5))):
        rows, columns = draw(st.sampled_from([(8, 8), (8, 24), (16, 64), (40, 8)]))
        for precision in draw(st.lists(st.sampled_from(candidates), min_size=1, max_size=4, unique=True)):
            kl = draw(st.floats(0, 5, allow_subnormal=False))
            found.append(Sensitivity(number // 2, f"linear_{number}", precision, kl, rows, columns))
    return found


def choices(options: list[Sensitivity]) -> list[tuple[Sensitivity, ...]]:
    places = [list(group) for _, group in itertools.groupby(options, key=lambda one: (one.block, one.name))]
    return list(itertools.product(*places))


def bits(choice: tuple[Sensitivity, ...]) -> float:
    return sum(one.precision.stored_bits * one.weights for one in choice) / sum(one.weights for one in choice)


def products(choice: tuple[Sensitivity, ...]) -> float:
    weights = sum(one.weights for one in choice)
    return sum(one.precision.stored_bits * one.precision.act_bits * one.weights for one in choice) / weights


@settings(max_examples=60, deadline=None)
@given(measured(), st.floats(1.5, 17))
def test_nothing_else_within_the_budget_is_better(options: list[Sensitivity], budget: float) -> None:
    within = [choice for choice in choices(options) if bits(choice) <= budget]
    assume(within)
    best = min(sum(one.kl for one in choice) for choice in within)
    found = allocate(options, stored_bits=budget)
    assert found.stored_bits <= budget + 1e-9
    assert found.predicted_kl == pytest.approx(best, rel=1e-6, abs=1e-8)
    assert found.stored_bits == pytest.approx(bits(found.chosen))
    assert allocate(list(reversed(options)), stored_bits=budget).precision == found.precision


@settings(max_examples=60, deadline=None)
@given(measured(), st.integers(1, 40_000))
def test_bytes_are_a_budget_too(options: list[Sensitivity], budget: int) -> None:
    within = [choice for choice in choices(options) if sum(one.stored_bytes for one in choice) <= budget]
    assume(within)
    best = min(sum(one.kl for one in choice) for choice in within)
    found = allocate(options, stored_bytes=budget)
    assert found.stored_bytes == sum(one.stored_bytes for one in found.chosen) <= budget
    assert found.predicted_kl == pytest.approx(best, rel=1e-6, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(measured(BOTH), st.floats(1.5, 5), st.floats(6, 34))
def test_bit_operations_are_a_second_budget(options: list[Sensitivity], bits_budget: float, operations: float) -> None:
    within = [choice for choice in choices(options) if bits(choice) <= bits_budget and products(choice) <= operations]
    assume(within)
    best = min(sum(one.kl for one in choice) for choice in within)
    found = allocate(options, stored_bits=bits_budget, bit_operations=operations)
    assert found.stored_bits <= bits_budget + 1e-9 and found.bit_operations <= operations + 1e-9
    assert (
        found.bit_operations == pytest.approx(products(found.chosen)) == pytest.approx(found.precision.bit_operations)
    )
    assert found.predicted_kl == pytest.approx(best, rel=1e-6, abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(measured(), st.lists(st.floats(2, 17), min_size=2, max_size=5))
def test_a_tighter_budget_never_predicts_less_loss(options: list[Sensitivity], budgets: list[float]) -> None:
    losses = []
    for budget in sorted(budgets):
        try:
            losses.append(allocate(options, stored_bits=budget).predicted_kl)
        except BudgetError:
            assert not losses  # once a budget can be met, every larger one can
    assert all(tight >= loose - 1e-6 * max(1, tight) for tight, loose in itertools.pairwise(losses))


def two_linears(*texts: str) -> list[Sensitivity]:
    return [
        Sensitivity(0, name, Precision.parse(text), weight / Precision.parse(text).levels, 8, 8)
        for name, weight in (("calm", 1.0), ("touchy", 9.0))
        for text in texts
    ]


def test_the_linear_that_minds_more_gets_more_bits() -> None:
    found = allocate(two_linears("W2A8", "W4A8"), stored_bits=3)
    assert isinstance(found.precision, PrecisionMix)
    assert [str(one.precision) for one in found.chosen] == ["W2A8", "W4A8"]
    assert found.stored_bits == 3
    content = found.to_dict()
    assert content["precision"] == str(found.precision) and PrecisionMix.from_dict(content["mix"]) == found.precision
    assert list(found.frame()["precision"]) == ["W2A8", "W4A8"]
    assert found.uniform == {
        Precision.parse("W2A8"): pytest.approx(10 / 4),
        Precision.parse("W4A8"): pytest.approx(10 / 16),
    }


def test_activations_of_the_linear_that_minds_less_get_fewer_bits() -> None:
    options = [replace(one, kl=one.kl / one.precision.act_bits) for one in two_linears("W4A4", "W4A8")]
    found = allocate(options, stored_bits=4, bit_operations=24)
    assert [str(one.precision) for one in found.chosen] == ["W4A4", "W4A8"] and found.bit_operations == 24
    assert str(found.precision).startswith("W4A6mix-") and found.to_dict()["bit_operations"] == 24


def test_one_precision_for_all_is_no_mix() -> None:
    found = allocate(two_linears("W2A8", "W4A8"), stored_bits=8)
    assert found.precision == Precision.parse("W4A8") and "mix" not in found.to_dict()


def test_a_prediction_needs_every_linear() -> None:
    options = two_linears("W2A8", "W4A8")
    mix = allocate(options, stored_bits=3).precision
    assert predicted_kl(options, mix) == pytest.approx(1 / 4 + 9 / 16)
    assert predicted_kl(options, Precision.parse("W3A8")) is None
    assert predicted_kl(options[:-1], Precision.parse("W4A8")) is None
    assert predicted_kl([], Precision.parse("W4A8")) is None


def test_a_huge_budget_is_no_limit() -> None:
    found = allocate(two_linears("W2A8", "W4A8"), stored_bits=1e308, bit_operations=1e308)
    assert found.precision == Precision.parse("W4A8")


@pytest.mark.parametrize(
    ("texts", "budget", "said"),
    [
        (("W2A8", "W4A8"), {"stored_bits": 1.9}, "smallest possible is 2 bits per weight"),
        (("W2A8",), {"stored_bytes": 10}, "smallest possible is 112 bytes"),
        (("W2A8", "W4A8kv4"), {"stored_bits": 3}, "W2A8 and W4A8kv4 cannot be mixed"),
        (("W2A8", "W4A4"), {"stored_bits": 3}, "W2A8 and W4A4 differ in activation bits.* such as 24 per weight"),
        (("W2A8", "W4A4"), {"stored_bits": 3, "bit_operations": -1.0}, "above 0"),
        (("W2A8", "W4A8"), {"stored_bits": 3, "bit_operations": 15}, "smallest possible is 16 bit operations per"),
        (("W2A16", "W4A4"), {"stored_bits": 2, "bit_operations": 16}, "cannot be met together"),
        (("W2A8",), {"stored_bits": float("nan")}, "nan"),
        (("W2A8",), {"stored_bits": -1.0}, "above 0"),
        (("W2A8",), {}, "one budget"),
        (("W2A8",), {"stored_bits": 2, "stored_bytes": 7}, "one budget"),
        ((), {"stored_bits": 2}, "no candidates"),
    ],
)
def test_what_cannot_be_met_is_said(texts: tuple[str, ...], budget: dict[str, float], said: str) -> None:
    with pytest.raises(BudgetError, match=said):
        allocate(two_linears(*texts), **budget)


def test_a_distance_that_is_no_number_is_said() -> None:
    broken = Sensitivity(3, "q_proj", CANDIDATES[0], float("nan"), 8, 8)
    with pytest.raises(BudgetError, match="q_proj in block 3 at W2A8 is nan"):
        allocate([broken], stored_bits=4)
