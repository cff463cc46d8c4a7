"""The precision notation `W<p>[*]A<q>[g<size>][kv<bits>]`: levels, bit planes, bits."""

import math
import re
from dataclasses import dataclass

FULL_BITS = 16
_NOTATION = re.compile(r"W([0-9]{1,2})(\*?)A([0-9]{1,2})(?:G([0-9]{1,5}))?(?:KV([0-9]{1,2}))?", re.IGNORECASE)
_FULL_NAMES = frozenset({"FP16", "FP32", "BF16", "FULL"})
_HOW = "Write W<p>[*]A<q>[g<size>][kv<bits>], such as W2*A8, W4A4g128 or W6A6kv8."


class PrecisionError(ValueError):
    """A precision that cannot be read, or that is not supported."""


@dataclass(frozen=True)
class Precision:
    """Bits of weights, activations and the KV cache (the paper's WpAq notation).

    Raises PrecisionError.
    weight_bits, act_bits: 1..8, or 16 for "not quantized".  balanced: the star (Bit Balance Strategy in the paper),
    which gives weights the 2^p + 1 symmetric levels -2^(p-1)..2^(p-1).  group_size: weights per scale along the input
    dimension, None for one scale per output channel.  kv_bits: 1..8, None for "not quantized".
    """

    weight_bits: int
    act_bits: int
    balanced: bool = False
    group_size: int | None = None
    kv_bits: int | None = None

    def __post_init__(self) -> None:
        for name, bits in (("weight", self.weight_bits), ("activation", self.act_bits)):
            if bits != FULL_BITS and not 1 <= bits <= 8:
                raise PrecisionError(
                    f"{bits} {name} bits are not supported: use 1 to 8, or 16 for not quantized. {_HOW}"
                )
        if self.kv_bits is not None and not 1 <= self.kv_bits <= 8:
            raise PrecisionError(f"{self.kv_bits} KV bits are not supported: use 1 to 8, or leave out kv. {_HOW}")
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
        weight, star, act, group, kv = match.groups()
        return cls(int(weight), int(act), bool(star), int(group) if group else None, int(kv) if kv else None)

    def __str__(self) -> str:
        text = f"W{self.weight_bits}{'*' if self.balanced else ''}A{self.act_bits}"
        if self.group_size is not None:
            text += f"g{self.group_size}"
        return text + (f"kv{self.kv_bits}" if self.kv_bits is not None else "")

    def of_linear(self, block: int, name: str) -> "Precision":
        """The precision of one linear: the same for all, unlike in a `PrecisionMix`."""
        return self

    @property
    def levels(self) -> int:
        """Number of values that a weight can take: 2^p, or 2^p + 1 with bit balance."""
        return 2**self.weight_bits + int(self.balanced)

    @property
    def stored_bits(self) -> int:
        """Bit planes per weight: p, or p + 1 with bit balance. Scales are not included."""
        return self.weight_bits + int(self.balanced)

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
        return not (self.quantizes_weights or self.quantizes_activations or self.kv_bits is not None)


FULL = Precision(FULL_BITS, FULL_BITS)
