"""A precision that differs from linear to linear, and the names under which it is stored and shown."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from abq_core.precision import Precision, PrecisionError

MIX_SUFFIX = ".json"  # of the files that hold one
_HASH_DIGITS = 6
_NAME = re.compile(rf"W[0-9.]{{1,5}}A[0-9]{{1,2}}(kv[0-9])?mix-[0-9a-f]{{{_HASH_DIGITS}}}")


class MixError(PrecisionError):
    """A mix that cannot be read, or that does not belong to this model."""


@dataclass(frozen=True)
class MixedLinear:
    """One linear's share of a mix. name: dotted, below its block.  weights: how many it has, for the mean of bits."""

    block: int
    name: str
    precision: Precision
    weights: int

    @property
    def key(self) -> str:
        """`block.name`, such as `0.self_attn.q_proj`."""
        return f"{self.block}.{self.name}"


@dataclass(frozen=True)
class PrecisionMix:
    """What each linear of a model gets. Activation and KV bits are the same everywhere; a weight may stay W16.

    Wherever a whole model's precision is asked for, this answers as a `Precision` does; bits are means over weights.
    Raises MixError where there is no linear, one stands there twice, or activations or KV bits differ.
    """

    linears: tuple[MixedLinear, ...]

    def __post_init__(self) -> None:
        if not self.linears:
            raise MixError("A mix of precisions names no linear: give at least one.")
        object.__setattr__(self, "linears", tuple(sorted(self.linears, key=lambda one: (one.block, one.name))))
        if len(self._by_name) != len(self.linears):
            keys = [one.key for one in self.linears]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MixError(f"A mix of precisions names {twice} more than once.")
        for one in self.linears:
            if one.block < 0 or not one.name or one.weights < 1:
                raise MixError(f"{one.key!r} with {one.weights} weights is no linear of a mix: see docs/allocation.md.")
            if (one.precision.act_bits, one.precision.kv_bits) != (self.act_bits, self.kv_bits):
                raise MixError(
                    f"{one.key} has {one.precision} beside {self.linears[0].precision}: activation and KV bits are the "
                    "same for all linears of a mix."
                )

    @cached_property
    def _by_name(self) -> Mapping[tuple[int, str], MixedLinear]:
        return {(one.block, one.name): one for one in self.linears}

    def __str__(self) -> str:
        """Mean stored bits and a hash of the assignment: `W2.5A8mix-3fa9c1`. A name, not the whole: see `to_dict`."""
        content = json.dumps(self.to_dict(), sort_keys=True).encode()
        digest = hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
        kv = "" if self.kv_bits is None else f"kv{self.kv_bits}"
        return f"W{round(self.stored_bits, 2):g}A{self.act_bits}{kv}mix-{digest}"

    def of_linear(self, block: int, name: str) -> Precision:
        """The precision of one linear. Raises MixError where the mix does not name it."""
        found = self._by_name.get((block, name))
        if found is None:
            raise MixError(
                f"The mix {self} says nothing of {block}.{name}: it was made for another model. Make one for this "
                "model with `abq allocate`."
            )
        return found.precision

    def check(self, sizes: Mapping[tuple[int, str], int]) -> None:
        """Raise MixError unless these are the linears of the mix: (block, name) -> number of weights."""
        for block, name in sizes:
            self.of_linear(block, name)
        for one in self.linears:
            if sizes.get((one.block, one.name)) != one.weights:
                raise MixError(
                    f"The mix {self} has {one.weights:,} weights in {one.key}, and the model "
                    f"{sizes.get((one.block, one.name), 0):,}: it was made for another model. Make one for this model "
                    "with `abq allocate`."
                )

    @property
    def act_bits(self) -> int:
        return self.linears[0].precision.act_bits

    @property
    def kv_bits(self) -> int | None:
        return self.linears[0].precision.kv_bits

    @cached_property
    def stored_bits(self) -> float:
        """Bit planes a weight, the mean over all weights; 16 for linears that are not quantized. Scales on top."""
        return self._mean(lambda precision: precision.stored_bits)

    @cached_property
    def information_bits(self) -> float:
        """log2 of the levels, the mean over all weights."""
        return self._mean(lambda precision: precision.information_bits)

    @property
    def quantizes_weights(self) -> bool:
        """True where any linear's weight is quantized."""
        return any(one.precision.quantizes_weights for one in self.linears)

    @property
    def quantizes_activations(self) -> bool:
        return self.linears[0].precision.quantizes_activations

    @property
    def is_full(self) -> bool:
        """True where nothing is quantized."""
        return all(one.precision.is_full for one in self.linears)

    def to_dict(self) -> dict[str, dict[str, object]]:
        """`block.name` -> precision and number of weights, ready for JSON; `from_dict` reads it to an equal mix."""
        return {one.key: {"precision": str(one.precision), "weights": one.weights} for one in self.linears}

    @classmethod
    def from_dict(cls, data: object) -> "PrecisionMix":
        """Read `to_dict`'s dictionary. Raises MixError, PrecisionError."""
        if not isinstance(data, Mapping):
            raise MixError("A mix of precisions is a table of linears; `abq allocate --out mix.json` writes one.")
        return cls(tuple(_linear(str(key), value) for key, value in data.items()))

    def _mean(self, of: Callable[[Precision], float]) -> float:
        return sum(one.weights * of(one.precision) for one in self.linears) / sum(one.weights for one in self.linears)


ModelPrecision = Precision | PrecisionMix  # what a model, a run or a calibration has


def block_precisions(precision: ModelPrecision, block: int, names: Iterable[str]) -> dict[str, Precision]:
    """The precision of each of a block's linears. Raises MixError where a mix does not name one."""
    return {name: precision.of_linear(block, name) for name in names}


def is_mix_name(text: str) -> bool:
    """True for what `str` of a mix looks like. The name alone does not say what each linear gets."""
    return _NAME.fullmatch(text.strip()) is not None


def precision_name(text: str) -> str:
    """How a precision is written: `w2*a8` gives W2*A8; the name of a mix is kept as it is. Raises PrecisionError."""
    return text.strip() if is_mix_name(text) else str(Precision.parse(text))


def _linear(key: str, value: object) -> MixedLinear:
    block, _, name = key.partition(".")
    try:
        if not isinstance(value, Mapping) or not isinstance(value["weights"], int):
            raise MixError("it needs a precision and a whole number of weights")
        return MixedLinear(int(block), name, Precision.parse(str(value["precision"])), value["weights"])
    except PrecisionError as error:
        raise MixError(f"{key[:60]!r} of a mix cannot be read: {error}") from error
    except (KeyError, ValueError) as error:
        raise MixError(
            f"{key[:60]!r} of a mix cannot be read ({error!r}): it needs <block>.<linear> with precision and weights."
        ) from error
