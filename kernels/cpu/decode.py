"""A few tokens times a packed weight: the byte dot product on fields, and the bit-serial product on planes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled
from kernels.cpu.decode_loops import MOST_TOKENS, dot_field, popcount_plane
from kernels.cpu.quantize import pack_planes, quantize_tokens
from kernels.cpu.tile_loops import finish_panel
from kernels.cpu.vectors import TARGET

Array = NDArray[Any]

PANELS = TARGET.decode_panels
ROWS = 16 * PANELS

_popcount1, _popcount2 = popcount_plane(1), popcount_plane(2)


@compiled
def dot_segment(
    data: Array,
    widths: Array,
    start: int,
    field_words: int,
    stride: int,
    column: int,
    columns: int,
    codes: Array,
    token: int,
    tokens: int,
    totals: Array,
) -> None:
    """totals[t, row] += sum over `columns` columns from `column` of activation code x weight code, all fields.

    start: the panel's first word.  field_words: words of a one-bit field of a whole row.  codes: (m, k) int8, of which
    `tokens` tokens from `token`, at most MOST_TOKENS.
    """
    k = codes.shape[1]
    shift = 0
    for width in widths:
        first, words = start + (column // 32) * width * 16, (columns // 32) * width
        dot_field(width, tokens, data, first, stride, words, codes, token * k + column, k, totals, np.int32(shift))
        start += field_words * width * 16
        shift += width


@compiled
def popcount_segment(
    data: Array,
    bits: int,
    start: int,
    field_words: int,
    stride: int,
    column: int,
    columns: int,
    act_planes: Array,
    act_bits: int,
    totals: Array,
) -> None:
    """The same by 2^(i+j) popcount(A_i & W_j) over `bits` weight planes and act_bits activation planes."""
    for j in range(bits):
        first = start + (j * field_words + column // 32) * 16
        for i in range(0, act_bits, 2):
            x_first, shift = i * field_words + column // 32, np.int32(i + j)
            if i + 1 < act_bits:
                _popcount2(data, first, stride, columns // 32, act_planes, x_first, field_words, totals, shift)
            else:
                _popcount1(data, first, stride, columns // 32, act_planes, x_first, field_words, totals, shift)


@compiled
def planes_of(widths: Array) -> int:
    """The bits of a weight's code. Not `widths.sum()`: whoever loads that from disk imports SciPy with it."""
    planes = 0
    for width in widths:
        planes += width
    return planes


@compiled
def exact_sum(
    total: np.int32,
    spacing: np.int32,
    zero: np.int16,
    centred_sum: np.int32,
    act_sum: np.int32,
    act_zero: np.int32,
) -> np.int32:
    """sum of (qa - za)(spacing qw - zw) from total = sum qa qw, what `finish_panel` scales."""
    return spacing * total - np.int32(zero) * act_sum - act_zero * centred_sum


@compiled
def finish_group(
    totals: Array, spacing: np.int32, zero: Array, sums: Array, scale: Array, act_zero: Array, act_sums: Array,
    group: int, token: int, tokens: int, panel: int, panels: int, apart: int, y: Array, integers: Array,
) -> None:  # fmt: skip
    """What the `totals` of `tokens` tokens and `panels` panels in one group add to y; exact sums go into `integers`."""
    padded = scale.size // act_sums.shape[1]
    for t in range(tokens):
        act_sum, act_z = act_sums[token + t, group], act_zero[token + t]
        for p in range(panels):
            row, at = (panel + p * apart) * 16, t * ROWS + 16 * p
            side = group * padded + row
            finish_panel(totals, at, spacing, zero, sums, scale, side, act_sum, act_z, y, at)
            if integers.size:
                for r in range(min(16, integers.shape[1] - row)):
                    integers[token + t, row + r, group] = exact_sum(
                        totals[t, 16 * p + r], spacing, zero[side + r], sums[side + r], act_sum, act_z
                    )


@compiled
def write_rows(
    y: Array, act_scale: Array, bias: Array, token: int, tokens: int, panel: int, panels: int, apart: int, out: Array
) -> None:
    """The rows of `panels` panels, scaled by the token, with the bias."""
    for t in range(tokens):
        act_s = act_scale[token + t]
        for p in range(panels):
            row = (panel + p * apart) * 16
            for r in range(min(16, out.shape[1] - row)):
                out[token + t, row + r] = y[t, 16 * p + r] * act_s + (bias[row + r] if bias.size else np.float32(0))


@compiled
def multiply_tokens(
    data: Array,
    widths: Array,
    segment: int,
    spacing: np.int32,
    scale: Array,
    zero: Array,
    sums: Array,
    bias: Array,
    codes: Array,
    act_planes: Array,
    act_bits: int,
    act_scale: Array,
    act_zero: Array,
    act_sums: Array,
    first_panel: int,
    last_panel: int,
    out: Array,
    integers: Array,
) -> None:
    """What `decode` computes, of quantized tokens; up to MOST_TOKENS of them share one reading of a panel.

    codes: (m, k_padded) int8.  act_planes: (m, words) bit planes, without words for the byte dot product.
    """
    (m, k), bits = codes.shape, widths.size
    field_words = k // 32
    row_words = field_words * planes_of(widths) * 16
    together = max(1, min(m, MOST_TOKENS))
    totals, y = np.empty((together, ROWS), np.int32), np.empty((together, ROWS), np.float32)
    each = (last_panel - first_panel) // PANELS
    left = last_panel - first_panel - each * PANELS
    for i in range(each + left):
        # Panels that are far apart, not neighbours: each stream then reads on where its last panel ended.
        panels, apart = (PANELS, each) if i < each else (1, 0)
        panel = first_panel + (i if i < each else each * (PANELS - 1) + i)
        start, stride = panel * row_words, apart * row_words
        for token in range(0, m, together):
            tokens = min(together, m - token)
            y[:] = 0
            for g in range(act_sums.shape[1]):
                column = g * segment
                columns = min(segment, k - column)
                totals[:] = 0
                if act_planes.shape[1]:
                    for t in range(tokens):
                        popcount_segment(
                            data, bits, start, field_words, stride, column, columns, act_planes[token + t], act_bits,
                            totals[t],
                        )  # fmt: skip
                else:
                    dot_segment(data, widths, start, field_words, stride, column, columns, codes, token, tokens, totals)
                finish_group(
                    totals, spacing, zero, sums, scale, act_zero, act_sums, g, token, tokens, panel, panels, apart, y,
                    integers,
                )  # fmt: skip
            write_rows(y, act_scale, bias, token, tokens, panel, panels, apart, out)


@compiled
def decode(
    x: Array,
    act_bits: int,
    clip: np.float32,
    by_planes: bool,
    data: Array,
    widths: Array,
    segment: int,
    spacing: np.int32,
    scale: Array,
    zero: Array,
    sums: Array,
    bias: Array,
    first_panel: int,
    last_panel: int,
    out: Array,
    integers: Array,
) -> int:
    """y = s_a sum_g s_w (d sum qa qw - zw sum qa - za sum(d qw - zw)) + bias, for the rows of panels first .. last - 1.

    x: (m, k) float32, quantized here, by every thread for itself: that takes less time than to start a second function.
    by_planes: by population counts, not by the byte dot product.  The weight's arrays are PackedWeight's, d its
    spacing; bias may be empty.  out: (m, n) float32, all rows.  integers: (m, n, groups) int32 to also write the exact
    sums into, or empty.  Returns what `quantize_tokens` does, and computes nothing where a token has no scale.
    """
    m, k_padded, groups = x.shape[0], (x.shape[1] + 31) // 32 * 32, (x.shape[1] + segment - 1) // segment
    codes, act_sums = np.empty((m, k_padded), np.int8), np.empty((m, groups), np.int32)
    act_scale, act_zero = np.empty(m, np.float32), np.empty(m, np.int32)
    quantized = quantize_tokens(x, act_bits, clip, segment, 1, codes, act_scale, act_zero, act_sums)
    if quantized < m:
        return quantized
    planes = np.empty((m, act_bits * k_padded // 32 if by_planes else 0), np.uint32)
    if by_planes:
        for token in range(m):
            pack_planes(codes[token], act_bits, planes[token])
    multiply_tokens(
        data, widths, segment, spacing, scale, zero, sums, bias, codes, planes, act_bits, act_scale, act_zero,
        act_sums, first_panel, last_panel, out, integers,
    )  # fmt: skip
    return m
