"""A mix: one precision per linear, with the name under which it is stored and shown."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from abq_core.precision import Precision, PrecisionError, check_table_bits, suffix

MIX_SUFFIX = ".json"  # of a file with a mix
_HASH_DIGITS = 6
_NAME = re.compile(rf"W[0-9.]{{1,5}}A[0-9.]{{1,5}}(kv[0-9])?(h[0-9])?(e[0-9])?mix-[0-9a-f]{{{_HASH_DIGITS}}}")
_TABLES = ("head_bits", "embedding_bits")  # keys of `to_dict` that name no linear


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
    """The precision of each linear of a model, and the bits of its LM head and embedding.

    KV bits are the same for all; weights and activations may stay at 16 bits. head_bits, embedding_bits: as in
    `Precision`. It has the properties of a `Precision`; its bits are means over weights. Raises MixError if there is no
    linear, if a linear occurs twice, or if KV bits differ.
    """

    linears: tuple[MixedLinear, ...]
    head_bits: int | None = None
    embedding_bits: int | None = None

    def __post_init__(self) -> None:
        if not self.linears:
            raise MixError("A mix of precisions has no linear: give at least one.")
        check_table_bits(self.head_bits, self.embedding_bits)
        object.__setattr__(self, "linears", tuple(sorted(self.linears, key=lambda one: (one.block, one.name))))
        if len(self._by_name) != len(self.linears):
            keys = [one.key for one in self.linears]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MixError(f"A mix of precisions names {twice} more than once.")
        for one in self.linears:
            if one.block < 0 or not one.name or one.weights < 1:
                raise MixError(f"{one.key!r} with {one.weights} weights cannot be in a mix: see docs/allocation.md.")
            if one.precision != one.precision.with_tables(None, None):
                raise MixError(
                    f"{one.key} has {one.precision}: bits of LM head and embedding belong to the mix, not to a linear."
                )
            if one.precision.kv_bits != self.kv_bits:
                raise MixError(
                    f"{one.key} has {one.precision}, and another linear {self.linears[0].precision}: KV bits must be "
                    "the same for all linears of a mix."
                )

    @cached_property
    def _by_name(self) -> Mapping[tuple[int, str], MixedLinear]:
        return {(one.block, one.name): one for one in self.linears}

    def __str__(self) -> str:
        """Mean stored bits, mean activation bits and a hash of the assignment: `W2.5A8mix-3fa9c1`.

        Only a name; `to_dict` has the content.
        """
        content = json.dumps(self.to_dict(), sort_keys=True).encode()
        digest = hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
        others = suffix(self.kv_bits, self.head_bits, self.embedding_bits)
        return f"W{round(self.stored_bits, 2):g}A{round(self.act_bits, 2):g}{others}mix-{digest}"

    def of_linear(self, block: int, name: str) -> Precision:
        """The precision of one linear. Raises MixError if the mix does not contain it."""
        found = self._by_name.get((block, name))
        if found is None:
            raise MixError(
                f"The mix {self} has no precision for {block}.{name}: it was made for another model. Make one for this "
                "model with `abq allocate`."
            )
        return found.precision

    def with_tables(self, head_bits: int | None, embedding_bits: int | None) -> "PrecisionMix":
        """The same mix with other bits of LM head and embedding."""
        return replace(self, head_bits=head_bits, embedding_bits=embedding_bits)

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

    @cached_property
    def act_bits(self) -> float:
        """Mean activation bits over all weights."""
        return self._mean(lambda precision: precision.act_bits)

    @cached_property
    def bit_operations(self) -> float:
        """Mean of weight planes times activation bits over all weights."""
        return self._mean(lambda precision: precision.bit_operations)

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
        """True if the input of any linear is quantized."""
        return any(one.precision.quantizes_activations for one in self.linears)

    @property
    def is_full(self) -> bool:
        """True if nothing is quantized."""
        tables = (self.head_bits, self.embedding_bits)
        return all(one.precision.is_full for one in self.linears) and tables == (None, None)

    def to_dict(self) -> dict[str, object]:
        """`block.name` -> precision and number of weights, ready for JSON; and the bits of quantized tables.

        `from_dict` reads it to an equal mix.
        """
        linears = {one.key: {"precision": str(one.precision), "weights": one.weights} for one in self.linears}
        return linears | {name: bits for name in _TABLES if (bits := getattr(self, name)) is not None}

    @classmethod
    def from_dict(cls, data: object) -> "PrecisionMix":
        """Read the dictionary of `to_dict`. Raises MixError or PrecisionError."""
        if not isinstance(data, Mapping):
            raise MixError("A mix of precisions is a table of linears; `abq allocate --out mix.json` writes one.")
        linears = tuple(_linear(str(key), value) for key, value in data.items() if key not in _TABLES)
        tables = {name: data.get(name) for name in _TABLES}
        for name, bits in tables.items():
            if bits is not None and type(bits) is not int:
                raise MixError(f"{name} of a mix is {str(bits)[:40]!r}: use 2 to 8, or leave it out.")
        return cls(linears, **tables)

    def _mean(self, of: Callable[[Precision], float]) -> float:
        return sum(one.weights * of(one.precision) for one in self.linears) / sum(one.weights for one in self.linears)


ModelPrecision = Precision | PrecisionMix


def resolve_tables(precision: ModelPrecision, tied: bool) -> ModelPrecision:
    """The precision with the bits of LM head and embedding that hold for a model.

    tied: whether the two are one table in this model. Then the bits of one hold for both: W4A8h8 becomes W4A8h8e8.
    Raises PrecisionError if they differ.
    """
    head, embedding = precision.head_bits, precision.embedding_bits
    if not tied or head == embedding:
        return precision
    if head is not None and embedding is not None:
        raise PrecisionError(
            f"{precision} has {head} bits for the LM head and {embedding} for the embedding, and in this model both "
            f"are one table: give one number, such as h{max(head, embedding)}."
        )
    return precision.with_tables(head or embedding, head or embedding)


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
