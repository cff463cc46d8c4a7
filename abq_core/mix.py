"""A mix: one precision per linear, with the name under which it is stored and shown."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from abq_core.precision import Precision, PrecisionError

MIX_SUFFIX = ".json"  # of a file with a mix
_HASH_DIGITS = 6
_NAME = re.compile(rf"W[0-9.]{{1,5}}A[0-9]{{1,2}}(kv[0-9])?mix-[0-9a-f]{{{_HASH_DIGITS}}}")


class MixError(PrecisionError):
    """A mix that cannot be read, or that was made for another model."""


@dataclass(frozen=True)
class MixedLinear:
    """One linear of a mix. name: dotted, below its block.

    weights: their number, for the mean of bits.
    """

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
    """The precision of each linear of a model.

    Activation and KV bits are the same for all; a weight may stay W16.
    It has the properties of a `Precision`; its bits are means over weights. Raises MixError if there is no linear, if a
    linear occurs twice, or if activation or KV bits differ.
    """

    linears: tuple[MixedLinear, ...]

    def __post_init__(self) -> None:
        if not self.linears:
            raise MixError("A mix of precisions has no linear: give at least one.")
        object.__setattr__(self, "linears", tuple(sorted(self.linears, key=lambda one: (one.block, one.name))))
        if len(self._by_name) != len(self.linears):
            keys = [one.key for one in self.linears]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MixError(f"A mix of precisions names {twice} more than once.")
        for one in self.linears:
            if one.block < 0 or not one.name or one.weights < 1:
                raise MixError(f"{one.key!r} with {one.weights} weights cannot be in a mix: see docs/allocation.md.")
            if (one.precision.act_bits, one.precision.kv_bits) != (self.act_bits, self.kv_bits):
                raise MixError(
                    f"{one.key} has {one.precision}, and another linear {self.linears[0].precision}: activation and "
                    "KV bits must be the same for all linears of a mix."
                )

    @cached_property
    def _by_name(self) -> Mapping[tuple[int, str], MixedLinear]:
        return {(one.block, one.name): one for one in self.linears}

    def __str__(self) -> str:
        """Mean stored bits and a hash of the assignment: `W2.5A8mix-3fa9c1`.

        Only a name; `to_dict` has the content.
        """
        content = json.dumps(self.to_dict(), sort_keys=True).encode()
        digest = hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
        kv = "" if self.kv_bits is None else f"kv{self.kv_bits}"
        return f"W{round(self.stored_bits, 2):g}A{self.act_bits}{kv}mix-{digest}"

    def of_linear(self, block: int, name: str) -> Precision:
        """The precision of one linear. Raises MixError if the mix does not contain it."""
        found = self._by_name.get((block, name))
        if found is None:
            raise MixError(
                f"The mix {self} has no precision for {block}.{name}: it was made for another model. Make one for this "
                "model with `abq allocate`."
            )
        return found.precision

    def check(self, sizes: Mapping[tuple[int, str], int]) -> None:
        """Raise MixError unless the mix has exactly the linears of a model.

        sizes: (block, name) -> number of weights.
        """
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
        """Activation bits, the same for every linear."""
        return self.linears[0].precision.act_bits

    @property
    def kv_bits(self) -> int | None:
        """Bits of K and V, or None if they are not quantized."""
        return self.linears[0].precision.kv_bits

    @cached_property
    def stored_bits(self) -> float:
        """Mean bit planes per weight; 16 for linears that are not quantized.

        Scales are not included.
        """
        return self._mean(lambda precision: precision.stored_bits)

    @cached_property
    def information_bits(self) -> float:
        """Mean of log2 of the levels over all weights."""
        return self._mean(lambda precision: precision.information_bits)

    @property
    def quantizes_weights(self) -> bool:
        """True if the weight of any linear is quantized."""
        return any(one.precision.quantizes_weights for one in self.linears)

    @property
    def quantizes_activations(self) -> bool:
        """True if activations are quantized."""
        return self.linears[0].precision.quantizes_activations

    @property
    def is_full(self) -> bool:
        """True if nothing is quantized."""
        return all(one.precision.is_full for one in self.linears)

    def to_dict(self) -> dict[str, dict[str, object]]:
        """`block.name` -> precision and number of weights, ready for JSON.

        `from_dict` reads it to an equal mix.
        """
        return {one.key: {"precision": str(one.precision), "weights": one.weights} for one in self.linears}

    @classmethod
    def from_dict(cls, data: object) -> "PrecisionMix":
        """Read the dictionary of `to_dict`. Raises MixError or PrecisionError."""
        if not isinstance(data, Mapping):
            raise MixError("A mix of precisions is a table of linears; `abq allocate --out mix.json` writes one.")
        return cls(tuple(_linear(str(key), value) for key, value in data.items()))

    def _mean(self, of: Callable[[Precision], float]) -> float:
        return sum(one.weights * of(one.precision) for one in self.linears) / sum(one.weights for one in self.linears)


ModelPrecision = Precision | PrecisionMix


def block_precisions(precision: ModelPrecision, block: int, names: Iterable[str]) -> dict[str, Precision]:
    """The precision of each linear of a block. Raises MixError if a mix lacks one."""
    return {name: precision.of_linear(block, name) for name in names}


def is_mix_name(text: str) -> bool:
    """True if `text` has the form of a mix's name.

    The precisions of its linears cannot be read from it.
    """
    return _NAME.fullmatch(text.strip()) is not None


def precision_name(text: str) -> str:
    """The canonical name: W2*A8 for `w2*a8`; the name of a mix is returned unchanged.

    Raises PrecisionError.
    """
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
