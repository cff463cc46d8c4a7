"""Many tokens times a packed weight: fields become bytes, a block at a time in cache, and are multiplied in tiles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled
from kernels.cpu.decode import exact_sum
from kernels.cpu.tile_loops import TILE_TOKENS, dot_tile, finish_panel, unpack_field
from kernels.cpu.vectors import TARGET

Array = NDArray[Any]

PANELS = TARGET.tile_panels
ROWS = 16 * PANELS
BLOCK_COLUMNS = 256
BLOCK_TOKENS = 128

_unpack8, _unpack4, _unpack2, _unpack1 = unpack_field(8), unpack_field(4), unpack_field(2), unpack_field(1)


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
            s, keep = np.int32(shift - low), np.int32(-1 if shift > low else 0)
            if width == 8:
                _unpack8(data, first, words, out, out_start, s, keep)
            elif width == 4:
                _unpack4(data, first, words, out, out_start, s, keep)
            elif width == 2:
                _unpack2(data, first, words, out, out_start, s, keep)
            else:
                _unpack1(data, first, words, out, out_start, s, keep)
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
    k = codes.shape[1]
    planes = widths.sum()
    if planes == 8 and widths.size == 1 and panels == PANELS:
        start, stride = panel * row_words + column * 4, row_words
        for t in range(0, tokens, TILE_TOKENS):
            dot_tile(
                data, start, stride, columns // 4, codes, (token + t) * k + column, k, totals, t * ROWS, np.int32(0)
            )
        return
    for begin in range(column, column + columns, BLOCK_COLUMNS):
        count = min(BLOCK_COLUMNS, column + columns - begin)
        stride = count * 4
        for low in range(0, planes, 8):
            for p in range(panels):
                unpack_block(
                    data, widths, (panel + p) * row_words, k // 32, begin, count, low, low + 8, scratch, p * stride
                )
            for t in range(0, tokens, TILE_TOKENS):
                x_start = (token + t) * k + begin
                dot_tile(scratch, 0, stride, count // 4, codes, x_start, k, totals, t * ROWS, np.int32(low))


@compiled
def prefill(
    data: Array,
    widths: Array,
    segment: int,
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
    """What `decode` computes, for m tokens: codes (m padded to TILE_TOKENS, k_padded) int8, out (m, n) float32.

    act_scale, act_zero: (m,).  act_sums: (m, groups).  integers: (m, n, groups) int32, or empty.
    """
    k = codes.shape[1]
    m, n = out.shape
    row_words = k // 32 * widths.sum() * 16
    padded = (n + 15) // 16 * 16
    scratch = np.empty(BLOCK_COLUMNS * 4 * PANELS, np.uint32)
    totals = np.empty((min(BLOCK_TOKENS, codes.shape[0]), ROWS), np.int32)
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
                        finish_panel(totals, t * ROWS + p, zero, sums, scale, side + p, act_sum, act_z, y, t * ROWS + p)
                    if integers.size:
                        for r in range(rows):
                            integers[token + t, panel * 16 + r, g] = exact_sum(
                                totals[t, r], zero[side + r], sums[side + r], act_sum, act_z
                            )
            for t in range(tokens):
                for r in range(rows):
                    row = panel * 16 + r
                    out[token + t, row] = y[t, r] * act_scale[token + t] + (bias[row] if bias.size else np.float32(0))
