"""Activation quantization for the engine: to the bit `kernels.activations`, as signed bytes with the sums it needs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled

Array = NDArray[Any]


@compiled
def row_range(row: Array) -> tuple[np.float32, np.float32, bool]:
    """(lo, hi, finite) of a row of float32, the range widened to hold 0.

    Compares bit patterns as integers, in the floats' order, which vectorises without fast-math and shows NaN.
    """
    bits = row.view(np.int32)
    low = np.int32(0)
    high = np.int32(0)
    for i in range(bits.size):
        ordered = bits[i] ^ ((bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, ordered)
        high = max(high, ordered)
    ends = np.empty(2, np.int32)
    ends[0] = low ^ ((low >> np.int32(31)) & np.int32(0x7FFFFFFF))
    ends[1] = high
    values = ends.view(np.float32)
    return values[0], values[1], np.isfinite(values[0]) and np.isfinite(values[1])


@compiled
def quantize_tokens(
    x: Array, bits: int, clip: np.float32, segment: int, codes: Array, scale: Array, zero: Array, sums: Array
) -> None:
    """Quantize x (m, k) float32 for the integer product; clip as in `kernels.activations`.

    Writes codes (>= m, k_padded) int8: the code less 128 where bits is 8 (so that it is signed), the code itself
    below; columns and rows beyond x are 0.  scale (m,) float32, NaN for a token with NaN or infinity.  zero (m,) int32,
    shifted as the codes are.  sums (m, groups) int32: of codes over segments of `segment` columns.
    """
    m, k = x.shape
    levels = np.float32((1 << bits) - 1)
    shift = np.int32(128) if bits == 8 else np.int32(0)
    for t in range(m):
        row, out = x[t], codes[t]
        low, high, finite = row_range(row)
        low, high = low * clip, high * clip
        step = (high - low) / levels
        if not step > np.float32(0):
            step = np.float32(1)
        offset = np.rint(-low / step)
        scale[t] = step if finite else np.float32(np.nan)
        zero[t] = np.int32(offset) - shift if finite else np.int32(0)
        if finite:
            for i in range(k):
                code = np.rint(row[i] / step) + offset
                code = min(max(code, np.float32(0)), levels)
                out[i] = np.int8(np.int32(code) - shift)
        else:
            out[:k] = 0
        out[k:] = 0
        for g in range(sums.shape[1]):
            total = np.int32(0)
            for i in range(g * segment, min((g + 1) * segment, k)):
                total += np.int32(out[i])
            sums[t, g] = total
    codes[m:] = 0


@compiled
def pack_planes(codes: Array, bits: int, planes: Array) -> None:
    """Bit planes of one token in the weight's order: codes (k_padded,) int8 -> planes (bits * k_padded / 32,) uint32.

    Bit 8 c + j of a word is column 4 j + c of its 32.
    """
    words = codes.view(np.uint32)
    chunks = words.size // 8
    for i in range(bits):
        for chunk in range(chunks):
            word = np.uint32(0)
            for j in range(8):
                word |= ((words[chunk * 8 + j] >> np.uint32(i)) & np.uint32(0x01010101)) << np.uint32(j)
            planes[i * chunks + chunk] = word
