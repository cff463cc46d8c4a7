"""The precision notation `W<p>[*]A<q>[g<size>][kv<bits>][h<bits>][e<bits>]`: levels, bit planes, bits."""

import math
import re
from dataclasses import dataclass, replace

FULL_BITS = 16
_NOTATION = re.compile(
    r"W([0-9]{1,2})(\*?)A([0-9]{1,2})(?:G([0-9]{1,5}))?(?:KV([0-9]{1,2}))?(?:H([0-9]{1,2}))?(?:E([0-9]{1,2}))?",
    re.IGNORECASE,
)
_FULL_NAMES = frozenset({"FP16", "FP32", "BF16", "FULL"})
NOTATION = "W<p>[*]A<q>[g<size>][kv<bits>][h<bits>][e<bits>]"
_HOW = f"Write {NOTATION}, such as W2*A8, W4A4g128, W6A6kv8 or W4A8h8e8."


class PrecisionError(ValueError):
    """A precision that cannot be read, or that is not supported."""


@dataclass(frozen=True)
class Precision:
    """Bits of weights, activations, KV cache, LM head and embedding (the paper's WpAq notation, extended).

    Raises PrecisionError.
    weight_bits, act_bits: 1..8, or 16 for "not quantized".  balanced: the star (Bit Balance Strategy in the paper),
    which gives weights the 2^p + 1 symmetric levels -2^(p-1)..2^(p-1).  group_size: weights per scale along the input
    dimension, None for one scale per output channel.  kv_bits: 1..8, None for "not quantized".  head_bits,
    embedding_bits: of the LM head and the embedding, 2..8 with one scale per row, or None for 16. In a model whose two
    tables are tied, one number holds for both (`resolve_tables`).
    """

    weight_bits: int
    act_bits: int
    balanced: bool = False
    group_size: int | None = None
    kv_bits: int | None = None
    head_bits: int | None = None
    embedding_bits: int | None = None

    def __post_init__(self) -> None:
        for name, bits in (("weight", self.weight_bits), ("activation", self.act_bits)):
            if bits != FULL_BITS and not 1 <= bits <= 8:
                raise PrecisionError(
                    f"{bits} {name} bits are not supported: use 1 to 8, or 16 for not quantized. {_HOW}"
                )
        if self.kv_bits is not None and not 1 <= self.kv_bits <= 8:
            raise PrecisionError(f"{self.kv_bits} KV bits are not supported: use 1 to 8, or leave out kv. {_HOW}")
        check_table_bits(self.head_bits, self.embedding_bits)
        if self.weight_bits == FULL_BITS and (self.balanced or self.group_size is not None):
            raise PrecisionError("W16 is not quantized, so it takes neither a star nor a group size. " + _HOW)
        if self.group_size is not None and (self.group_size < 32 or self.group_size % 32):
            raise PrecisionError(f"Group size {self.group_size} is not supported: use a multiple of 32, such as 128.")

    @classmethod
    def parse(cls, text: str) -> "Precision":
        """Read a precision, in upper or lower case.

        Raises PrecisionError with the text and the notation.
        """
        stripped = text.strip()
        if stripped.upper() in _FULL_NAMES:
            return FULL
        match = _NOTATION.fullmatch(stripped)
        if match is None:
            raise PrecisionError(f"'{stripped[:40]}' is not a precision. {_HOW}")
        weight, star, act, group, kv, head, embedding = match.groups()
        tables = (None if bits is None or int(bits) == FULL_BITS else int(bits) for bits in (head, embedding))
        return cls(int(weight), int(act), bool(star), int(group) if group else None, int(kv) if kv else None, *tables)

    def __str__(self) -> str:
        text = f"W{self.weight_bits}{'*' if self.balanced else ''}A{self.act_bits}"
        if self.group_size is not None:
            text += f"g{self.group_size}"
        return text + suffix(self.kv_bits, self.head_bits, self.embedding_bits)

    def of_linear(self, block: int, name: str) -> "Precision":
        """The precision of one linear of a block: the same for all, unlike in a `PrecisionMix`."""
        return self.with_tables(None, None)

    def with_tables(self, head_bits: int | None, embedding_bits: int | None) -> "Precision":
        """The same precision with other bits of LM head and embedding."""
        return replace(self, head_bits=head_bits, embedding_bits=embedding_bits)

    @property
    def levels(self) -> int:
        """Number of values that a weight can take: 2^p, or 2^p + 1 with bit balance."""
        return 2**self.weight_bits + int(self.balanced)

    @property
    def stored_bits(self) -> int:
        """Bit planes per weight: p, or p + 1 with bit balance. Scales are not included."""
        return self.weight_bits + int(self.balanced)

    @property
    def bit_operations(self) -> int:
        """Weight planes times activation bits: 1-bit products per weight and token."""
        return self.stored_bits * self.act_bits

    @property
    def information_bits(self) -> float:
        """log2 of the levels: the bits of an ideal code (2.32 for W2*)."""
        return math.log2(self.levels)

    @property
    def quantizes_weights(self) -> bool:
        """True if weights are quantized."""
        return self.weight_bits != FULL_BITS

    @property
    def quantizes_activations(self) -> bool:
        """True if activations are quantized."""
        return self.act_bits != FULL_BITS

    @property
    def is_full(self) -> bool:
        """True if nothing is quantized."""
        others = (self.kv_bits, self.head_bits, self.embedding_bits)
        return not (self.quantizes_weights or self.quantizes_activations or any(bits is not None for bits in others))


def suffix(kv_bits: int | None, head_bits: int | None, embedding_bits: int | None) -> str:
    """The end of a precision's text, such as kv8h8e8; parts of 16 bits are left out."""
    parts = (("kv", kv_bits), ("h", head_bits), ("e", embedding_bits))
    return "".join(f"{letters}{bits}" for letters, bits in parts if bits is not None)


def check_table_bits(head_bits: int | None, embedding_bits: int | None) -> None:
    """Raise PrecisionError unless the bits of LM head and embedding are 2..8 or None."""
    for name, letter, bits in (("LM head", "h", head_bits), ("embedding", "e", embedding_bits)):
        if bits is not None and not 2 <= bits <= 8:
            raise PrecisionError(
                f"{bits} bits of the {name} are not supported: use 2 to 8, or leave out {letter}. {_HOW}"
            )


FULL = Precision(FULL_BITS, FULL_BITS)
