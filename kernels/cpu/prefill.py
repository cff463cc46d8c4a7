"""Many tokens times a packed weight: unpack a block of fields to bytes, multiply in tiles.

The unpacked block stays in cache.
"""

from typing import Any

import numpy as np

from kernels.cpu.arguments import Array, Columns, Panels, Rows, Tokens, Weight
from kernels.cpu.compile import compiled, inlined
from kernels.cpu.decode import panel_words, planes_of
from kernels.cpu.epilogue import finish_group, write_rows
from kernels.cpu.tile_loops import TILE_TOKENS, dot_tile, unpack_field
from kernels.cpu.vectors import TARGET

PANELS = TARGET.tile_panels
ROWS = 16 * PANELS
BLOCK_COLUMNS = 512
BLOCK_TOKENS = 128

_full_tile, _half_tile = dot_tile(TILE_TOKENS), dot_tile(TILE_TOKENS // 2)
_unpack8, _unpack4, _unpack2, _unpack1 = unpack_field(8), unpack_field(4), unpack_field(2), unpack_field(1)
_add2, _add1 = unpack_field(2, add=True), unpack_field(1, add=True)


@inlined
def unpack_block(weight: Weight, panel: int, k: int, columns: Columns, low: int, out: Array, out_start: int) -> None:
    """Write code bits low .. low + 7 of some columns of one panel as bytes.

    The bytes have the order of an 8-bit field.

    k: columns as stored.  out: uint32 words, each 4 columns of one row, 16 rows per 4 columns, from out_start.
    """
    data, widths = weight.data, weight.widths
    start = panel * panel_words(widths, k)
    shift = 0
    for width in widths:
        if low <= shift < low + 8:
            first = start + (columns.first // 32) * width * 16
            words = (columns.size // 32) * width
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
        start += k // 32 * width * 16
        shift += width


@inlined
def multiply_segment(
    weight: Weight, panels: Panels, columns: Columns, codes: Array, tokens: Rows, scratch: Array, totals: Array
) -> None:
    """totals += codes of some tokens times some columns of neighbouring panels.

    totals: (BLOCK_TOKENS, ROWS).

    codes: (tiles, k_padded * TILE_TOKENS) int8.  scratch: uint32 for BLOCK_COLUMNS unpacked columns of PANELS panels.
    Nine-bit weights take a second pass for the ninth plane, because their codes do not fit in a byte.
    """
    k = codes.shape[1] // TILE_TOKENS
    data, widths = weight.data, weight.widths
    planes, row_words = planes_of(widths), panel_words(widths, k)
    width = widths[0]
    are_bytes = planes == 8 and widths.size == 1 and panels.size == PANELS  # nothing to unpack
    tiles = (tokens.size + TILE_TOKENS - 1) // TILE_TOKENS
    step = (2 * width + tiles - 1) // tiles  # each tile prefetches its part of the next block
    for begin in range(columns.first, columns.first + columns.size, BLOCK_COLUMNS):
        count = min(BLOCK_COLUMNS, columns.first + columns.size - begin)
        words, stride = count // 4, count * 4
        here = panels.first * row_words + begin // 32 * width * 16
        ahead = here + BLOCK_COLUMNS // 32 * width * 16
        if begin + count == k:
            ahead = (panels.first + PANELS) * row_words
        for low in range(0, planes, 8):
            shift, narrow = np.int32(low), planes - low < 8
            if not are_bytes:
                for p in range(panels.size):
                    unpack_block(weight, panels.first + p, k, Columns(begin, count), low, scratch, p * stride)
            later = ahead
            for t in range(0, tokens.size, TILE_TOKENS):
                x_start, y_start = (tokens.first + t) * k // 4 + begin // 4 * TILE_TOKENS, t * ROWS
                if are_bytes:
                    _full_tile(
                        data, here, row_words, words, codes, x_start, totals, y_start, shift, narrow,
                        data, later, row_words, step,
                    )  # fmt: skip
                elif tokens.size - t > TILE_TOKENS // 2:
                    _full_tile(
                        scratch, 0, stride, words, codes, x_start, totals, y_start, shift, narrow,
                        data, later, row_words, step,
                    )  # fmt: skip
                else:
                    _half_tile(
                        scratch, 0, stride, words, codes, x_start, totals, y_start, shift, narrow,
                        data, later, row_words, step,
                    )  # fmt: skip
                later += words * step


@compiled
def prefill(
    weight_fields: tuple[Any, ...], act_fields: tuple[Array, ...], first_panel: int, last_panel: int, out: Array,
    integers: Array,
) -> None:  # fmt: skip
    """Multiply m quantized tokens with panels first_panel .. last_panel - 1, as `decode` does.

    weight_fields, act_fields: the fields of `Weight` and `Tokens`, codes in tiles of TILE_TOKENS (`quantize_tokens`).
    out: (m, n) float32.  integers: (m, n, groups) int32 for the exact sums, or empty.
    """
    weight, act = Weight(*weight_fields), Tokens(*act_fields)
    k = act.codes.shape[1] // TILE_TOKENS
    m = out.shape[0]
    scratch = np.empty(BLOCK_COLUMNS * 4 * PANELS, np.uint32)
    totals = np.empty((min(BLOCK_TOKENS, act.codes.shape[0] * TILE_TOKENS), ROWS), np.int32)
    y = np.empty(totals.shape, np.float32)
    for panel in range(first_panel, last_panel, PANELS):
        panels = Panels(panel, min(PANELS, last_panel - panel), 1)
        for token in range(0, m, BLOCK_TOKENS):
            tokens = Rows(token, min(BLOCK_TOKENS, m - token))
            y[:] = 0
            for g in range(act.sums.shape[1]):
                columns = Columns(g * weight.segment, min(weight.segment, k - g * weight.segment))
                totals[:] = 0
                multiply_segment(weight, panels, columns, act.codes, tokens, scratch, totals)
                finish_group(totals, weight, act, g, tokens, panels, y, integers)
            write_rows(y, act.scale, weight.bias, tokens, panels, out)
