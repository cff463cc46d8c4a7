"""Storage types of GGUF that hold a quantized weight exactly, and how their blocks are written.

Layouts: `ggml/src/ggml-common.h` of llama.cpp. Scales are float16, so "exactly" means that the levels are exact and the
scales rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abq_core.export.integers import IntegerWeight, even_groups, symmetric
from abq_core.quantization.quantizers import QuantizedWeight

_SUPER = 256  # values of a K-quant's block
_SMALL = 32  # values of the other types' blocks
_SUB_BLOCKS = 16  # of a K-quant's block, each with a scale
_ONE = 0x21  # a Q3_K scale of 33, stored with 32 added


@dataclass(frozen=True)
class BlockType:
    """A storage type. values: of a block.  low, high: range of its integers.  bits: per value, scales included.

    encode(weight) -> (rows, bytes) uint8.
    """

    name: str
    values: int
    low: int
    high: int
    bits: float
    encode: Callable[[QuantizedWeight], NDArray[np.uint8]]

    def holds(self, weight: QuantizedWeight) -> bool:
        """Whether every level of the weight is one of this type."""
        weight = even_groups(weight)
        if weight.codes.shape[1] % self.values or weight.group_size % self.values:
            return False
        if self.name == "Q2_K":  # has zero points
            return int(weight.codes.max()) <= 3 and int(weight.zero.max()) <= 15
        values = symmetric(weight).values
        return self.low <= int(values.min()) and int(values.max()) <= self.high


def exact_type(weight: QuantizedWeight) -> BlockType | None:
    """The type of fewest bits that holds the weight's levels; None if none does."""
    return next((one for one in BLOCK_TYPES if one.holds(weight)), None)


def _q2_k(weight: QuantizedWeight) -> NDArray[np.uint8]:
    """w = d sc q - dmin m, with d = dmin = the scale, sc the spacing of levels and m the zero point."""
    weight = even_groups(weight)
    rows, k = weight.codes.shape
    blocks = k // _SUPER
    codes = weight.codes.numpy().astype(np.uint8).reshape(rows, blocks, _SUPER)
    zero = _per_block(weight.zero.numpy(), blocks).astype(np.uint8)
    scale = _halves(_per_block(weight.scale.numpy(), blocks))
    scales = np.repeat((zero << 4 | weight.spacing)[..., None], _SUB_BLOCKS, axis=2)
    return _rows(scales, _two_bits(codes), scale, scale)


def _q3_k(weight: QuantizedWeight) -> NDArray[np.uint8]:
    """w = d (sc - 32) q, q in -4..3, with sc = 33."""
    integers, blocks = _integers(weight, _SUPER)
    codes = (integers.values.numpy() + 4).astype(np.uint8).reshape(len(integers.values), blocks, _SUPER)
    high = (codes >> 2).reshape(*codes.shape[:2], 8, 32)  # bit 4 h + j of byte l: value 128 h + 32 j + l
    mask = np.bitwise_or.reduce(high << np.arange(8, dtype=np.uint8)[:, None], axis=2)
    low, top = _ONE & 15, _ONE >> 4
    scales = np.array([low | low << 4] * 8 + [top * 0b01010101] * 4, np.uint8)
    scales = np.broadcast_to(scales, (*codes.shape[:2], 12))
    return _rows(mask, _two_bits(codes & 3), scales, _halves(_per_block(integers.scale.numpy(), blocks)))


def _q4_0(weight: QuantizedWeight) -> NDArray[np.uint8]:
    integers, blocks = _integers(weight, _SMALL)
    codes = (integers.values.numpy() + 8).astype(np.uint8).reshape(len(integers.values), blocks, _SMALL)
    return _rows(_halves(_per_block(integers.scale.numpy(), blocks)), _nibbles(codes))


def _q5_0(weight: QuantizedWeight) -> NDArray[np.uint8]:
    integers, blocks = _integers(weight, _SMALL)
    codes = (integers.values.numpy() + 16).astype(np.uint8).reshape(len(integers.values), blocks, _SMALL)
    high = np.packbits(codes >> 4, axis=2, bitorder="little")
    return _rows(_halves(_per_block(integers.scale.numpy(), blocks)), high, _nibbles(codes & 15))


def _q8_0(weight: QuantizedWeight) -> NDArray[np.uint8]:
    integers, blocks = _integers(weight, _SMALL)
    values = integers.values.numpy().astype(np.int8).reshape(len(integers.values), blocks, _SMALL)
    return _rows(_halves(_per_block(integers.scale.numpy(), blocks)), values.view(np.uint8))


def _integers(weight: QuantizedWeight, values: int) -> tuple[IntegerWeight, int]:
    """The weight without zero points, and blocks of `values` columns per row."""
    integers = symmetric(weight)
    return integers, integers.values.shape[1] // values


def _per_block(groups: NDArray[Any], blocks: int) -> NDArray[Any]:
    """(rows, groups) -> (rows, blocks): the value of the group that a block lies in."""
    return np.repeat(groups, blocks // groups.shape[1], axis=1)


def _halves(scale: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(rows, blocks) float32 -> (rows, blocks, 2) uint8: float16, little-endian."""
    return scale.astype("<f2")[..., None].view(np.uint8)


def _two_bits(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, blocks, 256) in 0..3 -> (rows, blocks, 64): bits 2 j of byte 32 h + l hold value 128 h + 32 j + l."""
    parts = codes.reshape(*codes.shape[:2], 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    return np.bitwise_or.reduce(parts, axis=3).reshape(*codes.shape[:2], 64)


def _nibbles(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """(rows, blocks, 32) in 0..15 -> (rows, blocks, 16): byte l holds the values l and l + 16."""
    return (codes[..., :16] | codes[..., 16:] << 4).astype(np.uint8)


def _rows(*parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Parts of blocks, (rows, blocks, bytes) each -> (rows, bytes)."""
    whole = np.concatenate(parts, axis=2)
    return whole.reshape(len(whole), -1)


BLOCK_TYPES = (
    BlockType("Q2_K", _SUPER, 0, 3, 2.625, _q2_k),
    BlockType("Q3_K", _SUPER, -4, 3, 3.4375, _q3_k),
    BlockType("Q4_0", _SMALL, -8, 7, 4.5, _q4_0),
    BlockType("Q5_0", _SMALL, -16, 15, 5.5, _q5_0),
    BlockType("Q8_0", _SMALL, -128, 127, 8.5, _q8_0),
)  # fewest bits first


def nearest_blocks(weight: QuantizedWeight) -> tuple[str, NDArray[Any], float]:
    """The weight rounded again: type, blocks (rows, bytes), and the relative error (root mean square).

    Q8_0, or plain F16 for rows that are not whole blocks.
    """
    values = weight.dequantize().numpy()
    if values.shape[1] % _SMALL:
        blocks: NDArray[Any] = values.astype(np.float16)
        return "F16", blocks, _relative_error(values, blocks.astype(np.float32))
    from gguf import GGMLQuantizationType, dequantize, quantize

    blocks = quantize(values, GGMLQuantizationType.Q8_0)
    return "Q8_0", blocks, _relative_error(values, dequantize(blocks, GGMLQuantizationType.Q8_0))


def _relative_error(values: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    return float(np.sqrt(((found - values) ** 2).mean() / max(float((values**2).mean()), 1e-30)))
