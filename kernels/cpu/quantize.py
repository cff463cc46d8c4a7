"""Activation quantization for the engine: packed codes and their sums.

Bit-equal to `kernels.formats.activations`.
"""

from typing import NamedTuple

import numpy as np

from kernels.cpu.arguments import Array, Tokens
from kernels.cpu.compile import compiled, inlined
from kernels.cpu.quantize_loops import LANES, codes_of_vectors, range_of_vectors


@compiled
def row_range(row: Array) -> tuple[np.float32, np.float32, bool]:
    """Return (min, max, finite) of a row of float32, with the range extended to include 0.

    Compares bit patterns as integers in the order of the floats, so that NaN becomes a non-finite min or max.
    """
    lanes = np.zeros(2 * LANES, np.int32)
    vectors = row.size // LANES
    range_of_vectors(row, vectors, lanes)
    low, high = np.int32(0), np.int32(0)
    for lane in range(LANES):
        low, high = min(low, lanes[lane]), max(high, lanes[LANES + lane])
    bits = row.view(np.int32)
    for i in range(vectors * LANES, bits.size):
        ordered = bits[i] ^ ((bits[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low, high = min(low, ordered), max(high, ordered)
    ends = np.empty(2, np.int32)
    ends[0] = low ^ ((low >> np.int32(31)) & np.int32(0x7FFFFFFF))
    ends[1] = high
    values = ends.view(np.float32)
    return values[0], values[1], np.isfinite(values[0]) and np.isfinite(values[1])


@inlined
def row_grid(row: Array, clip: np.float32, levels: np.float32) -> tuple[np.float32, np.float32, bool]:
    """Return (step, zero point, finite): the grid of levels + 1 codes over the clipped range of a row of float32.

    finite: False for a row with NaN, infinity, or a range that overflows float32. A row of zeros has step 1.
    """
    low, high, finite = row_range(row)
    low, high = low * clip, high * clip
    step = (high - low) / levels
    finite = finite and np.isfinite(step)
    if not step > np.float32(0):
        step = np.float32(1)
    return step, np.rint(-low / step), finite


class Grid(NamedTuple):
    """The integer grid of one row."""

    step: np.float32
    offset: np.float32  # zero point before `shift`
    levels: np.float32  # largest code
    shift: np.int32  # subtracted from every code


@inlined
def row_codes(row: Array, first: int, last: int, grid: Grid, out: Array, lanes: Array) -> np.int32:
    """Write columns first .. last - 1 of a row as codes minus the shift, and return their sum.

    lanes: int32 (LANES).
    """
    lanes[:] = 0
    vectors = (last - first) // LANES
    codes_of_vectors(row, first, vectors, grid.step, grid.offset, grid.levels, grid.shift, out, lanes)
    total = np.int32(0)
    for lane in range(LANES):
        total += lanes[lane]
    for i in range(first + vectors * LANES, last):
        code = min(max(np.rint(row[i] / grid.step) + grid.offset, np.float32(0)), grid.levels)
        out[i] = np.int8(np.int32(code) - grid.shift)
        total += np.int32(out[i])
    return total


@compiled
def quantize_tokens(x: Array, bits: int, clip: np.float32, segment: int, tile_tokens: int, act: Tokens) -> int:
    """Quantize x (m, k) float32 for the integer product, and write it to `act`.

    The codes equal those of `kernels.formats.activations`.

    Returns m, or the first token without a finite scale (NaN, infinity, or a range that overflows float32); tokens
    after that one are not written.

    act.codes: (tiles, k_padded * tile_tokens) int8, the code minus 128 for 8 bits (to fit int8), else the code. Four
    columns form a word, and the words of a tile's tokens are interleaved: column c of token t of the tile is byte
    ((c // 4) * tile_tokens + t) * 4 + c % 4.  Columns and tokens beyond x are 0.  act.zero is shifted like the codes.
    act.sums: sums of the codes over segments of `segment` columns.
    """
    m, k = x.shape
    k_padded = act.codes.shape[1] // tile_tokens
    levels = np.float32((1 << bits) - 1)
    shift = np.int32(128) if bits == 8 else np.int32(0)
    buffer = np.zeros(k_padded, np.int8)
    lanes = np.empty(LANES, np.int32)
    for t in range(act.codes.shape[0] * tile_tokens):
        out = act.codes[t // tile_tokens] if tile_tokens == 1 else buffer
        out[k:] = 0
        if t < m:
            step, offset, finite = row_grid(x[t], clip, levels)
            if not finite:
                return t
            act.scale[t], act.zero[t] = step, np.int32(offset) - shift
            grid = Grid(step, offset, levels, shift)
            for g in range(act.sums.shape[1]):
                last = min((g + 1) * segment, k)
                act.sums[t, g] = row_codes(x[t], g * segment, last, grid, out, lanes)
        else:
            out[:] = 0
        if tile_tokens > 1:
            words, tile = buffer.view(np.uint32), act.codes[t // tile_tokens].view(np.uint32)
            for w in range(words.size):
                tile[w * tile_tokens + t % tile_tokens] = words[w]
    return m


@compiled
def pack_planes(codes: Array, bits: int, planes: Array) -> None:
    """Bit planes of one token in the weight's order.

    codes: (k_padded,) int8.  planes: (bits * k_padded / 32,) uint32.

    Bit 8 c + j of a word is column 4 j + c of its 32 columns.
    """
    words = codes.view(np.uint32)
    chunks = words.size // 8
    for i in range(bits):
        for chunk in range(chunks):
            word = np.uint32(0)
            for j in range(8):
                word |= ((words[chunk * 8 + j] >> np.uint32(i)) & np.uint32(0x01010101)) << np.uint32(j)
            planes[i * chunks + chunk] = word
