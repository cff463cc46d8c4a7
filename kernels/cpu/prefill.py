"""Many tokens times a packed weight: fields become bytes, a block at a time in cache, and are multiplied in tiles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled
from kernels.cpu.decode import exact_sum, planes_of
from kernels.cpu.tile_loops import TILE_TOKENS, dot_tile, finish_panel, unpack_field
from kernels.cpu.vectors import TARGET

Array = NDArray[Any]

PANELS = TARGET.tile_panels
ROWS = 16 * PANELS
BLOCK_COLUMNS = 512
BLOCK_TOKENS = 128

_whole, _half = dot_tile(TILE_TOKENS), dot_tile(TILE_TOKENS // 2)
_unpack8, _unpack4, _unpack2, _unpack1 = unpack_field(8), unpack_field(4), unpack_field(2), unpack_field(1)
_add2, _add1 = unpack_field(2, add=True), unpack_field(1, add=True)


@compiled
def unpack_block(
    data: Array,
    widths: Array,
    start: int,
    field_words: int,
    column: int,
    columns: int,
    low: int,
    high: int,
    out: Array,
    out_start: int,
) -> None:
    """Bytes of the fields at shifts low .. high - 1 of one panel, in the order of an 8-bit field.

    out: uint32 words, 16 rows of 4 columns each, from out_start.  Values are shifted down by `low`.
    """
    shift = 0
    for width in widths:
        if low <= shift < high:
            first = start + (column // 32) * width * 16
            words = (columns // 32) * width
            s = np.int32(shift - low)
            if width == 8:
                _unpack8(data, first, words, out, out_start, s)
            elif width == 4:
                _unpack4(data, first, words, out, out_start, s)
            elif width == 2 and s == 0:
                _unpack2(data, first, words, out, out_start, s)
            elif width == 2:
                _add2(data, first, words, out, out_start, s)
            elif s == 0:
                _unpack1(data, first, words, out, out_start, s)
            else:
                _add1(data, first, words, out, out_start, s)
        start += field_words * width * 16
        shift += width


@compiled
def multiply_segment(
    data: Array,
    widths: Array,
    panel: int,
    panels: int,
    row_words: int,
    column: int,
    columns: int,
    codes: Array,
    token: int,
    tokens: int,
    scratch: Array,
    totals: Array,
) -> None:
    """totals (BLOCK_TOKENS, ROWS) += codes[token : token + tokens] x the segment's columns of `panels` panels.

    Nine-bit weights take a second pass for the ninth plane, since their codes do not fit a byte.
    """
    k = codes.shape[1] // TILE_TOKENS
    planes = planes_of(widths)
    as_they_are = planes == 8 and widths.size == 1 and panels == PANELS
    for begin in range(column, column + columns, BLOCK_COLUMNS):
        count = min(BLOCK_COLUMNS, column + columns - begin)
        words, stride = count // 4, count * 4
        here = panel * row_words + begin // 32 * widths[0] * 16
        ahead = here + BLOCK_COLUMNS // 32 * widths[0] * 16
        if begin + count == k:
            ahead = (panel + PANELS) * row_words
        for low in range(0, planes, 8):
            shift = np.int32(low)
            if not as_they_are:
                for p in range(panels):
                    start = (panel + p) * row_words
                    unpack_block(data, widths, start, k // 32, begin, count, low, low + 8, scratch, p * stride)
            tiles = (tokens + TILE_TOKENS - 1) // TILE_TOKENS
            step = (2 * widths[0] + tiles - 1) // tiles  # each tile asks for its part of the next block
            later = ahead
            for t in range(0, tokens, TILE_TOKENS):
                x_start, y_start = (token + t) * k // 4 + begin // 4 * TILE_TOKENS, t * ROWS
                if as_they_are:
                    _whole(
                        data, here, row_words, words, codes, x_start, totals, y_start, shift,
                        data, later, row_words, step,
                    )  # fmt: skip
                elif tokens - t > TILE_TOKENS // 2:
                    _whole(
                        scratch, 0, stride, words, codes, x_start, totals, y_start, shift, data, later, row_words, step
                    )
                else:
                    _half(
                        scratch, 0, stride, words, codes, x_start, totals, y_start, shift, data, later, row_words, step
                    )
                later += words * step


@compiled
def prefill(
    data: Array,
    widths: Array,
    segment: int,
    spacing: np.int32,
    scale: Array,
    zero: Array,
    sums: Array,
    bias: Array,
    codes: Array,
    act_scale: Array,
    act_zero: Array,
    act_sums: Array,
    first_panel: int,
    last_panel: int,
    out: Array,
    integers: Array,
) -> None:
    """What `decode` computes, for m tokens.

    codes: as `quantize_tokens` packs them, in tiles of TILE_TOKENS.  out: (m, n) float32.
    act_scale, act_zero: (m,).  act_sums: (m, groups).  integers: (m, n, groups) int32, or empty.
    """
    k = codes.shape[1] // TILE_TOKENS
    m, n = out.shape
    row_words = k // 32 * planes_of(widths) * 16
    padded = (n + 15) // 16 * 16
    scratch = np.empty(BLOCK_COLUMNS * 4 * PANELS, np.uint32)
    totals = np.empty((min(BLOCK_TOKENS, codes.shape[0] * TILE_TOKENS), ROWS), np.int32)
    y = np.empty(totals.shape, np.float32)
    for panel in range(first_panel, last_panel, PANELS):
        panels = min(PANELS, last_panel - panel)
        rows = min(16 * panels, n - 16 * panel)
        for token in range(0, m, BLOCK_TOKENS):
            tokens = min(BLOCK_TOKENS, m - token)
            y[:] = 0
            for g in range(act_sums.shape[1]):
                column = g * segment
                totals[:] = 0
                multiply_segment(
                    data,
                    widths,
                    panel,
                    panels,
                    row_words,
                    column,
                    min(segment, k - column),
                    codes,
                    token,
                    tokens,
                    scratch,
                    totals,
                )
                side = g * padded + panel * 16
                for t in range(tokens):
                    act_sum, act_z = act_sums[token + t, g], act_zero[token + t]
                    for p in range(0, 16 * panels, 16):
                        at = t * ROWS + p
                        finish_panel(totals, at, spacing, zero, sums, scale, side + p, act_sum, act_z, y, at)
                    if integers.size:
                        for r in range(rows):
                            integers[token + t, panel * 16 + r, g] = exact_sum(
                                totals[t, r], spacing, zero[side + r], sums[side + r], act_sum, act_z
                            )
            for t in range(tokens):
                act_s, row = act_scale[token + t], panel * 16
                if bias.size:
                    for r in range(rows):
                        out[token + t, row + r] = y[t, r] * act_s + bias[row + r]
                else:
                    for r in range(rows):
                        out[token + t, row + r] = y[t, r] * act_s
