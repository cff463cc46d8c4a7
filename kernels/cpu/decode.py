"""A few tokens times a packed weight: byte dot product or bit-serial product.

The former reads fields, the latter bit planes.
"""

from typing import Any

import numpy as np

from kernels.cpu.arguments import Array, Columns, Output, Panels, Rows, Tokens, Weight
from kernels.cpu.compile import compiled, inlined
from kernels.cpu.decode_loops import MAX_TOKENS, dot_field, popcount_plane
from kernels.cpu.epilogue import finish_group, write_rows
from kernels.cpu.quantize import pack_planes, quantize_tokens
from kernels.cpu.vectors import TARGET

PANELS = TARGET.decode_panels
ROWS = 16 * PANELS

_popcount1, _popcount2 = popcount_plane(1), popcount_plane(2)


@inlined
def dot_segment(weight: Weight, panels: Panels, columns: Columns, codes: Array, tokens: Rows, totals: Array) -> None:
    """Add byte dot products of some tokens with some columns of PANELS panels, over all fields.

    At most MAX_TOKENS tokens.

    totals[t, row] += sum over the columns of activation code * weight code.  codes: (m, k_padded) int8.
    totals: (at least tokens.size, ROWS) int32.
    """
    k = codes.shape[1]
    data, widths = weight.data, weight.widths
    row_words = panel_words(widths, k)
    start, stride = panels.first * row_words, panels.apart * row_words
    shift = 0
    for width in widths:
        first, words = start + (columns.first // 32) * width * 16, (columns.size // 32) * width
        x_start = tokens.first * k + columns.first
        dot_field(width, tokens.size, data, first, stride, words, codes, x_start, k, totals, np.int32(shift))
        start += k // 32 * width * 16
        shift += width


@inlined
def popcount_segment(
    weight: Weight, panels: Panels, columns: Columns, k: int, act_planes: Array, act_bits: int, totals: Array
) -> None:
    """Add the same for one token, by bit planes.

    The sum over all weight planes j and act_bits planes i of 2^(i+j) popcount(A_i & W_j).

    k: columns as stored.  act_planes: (words,) uint32, see `pack_planes`.  totals: (ROWS,) int32.
    """
    data, planes, field_words = weight.data, weight.widths.size, k // 32
    row_words = field_words * planes * 16
    start, stride = panels.first * row_words, panels.apart * row_words
    for j in range(planes):
        first = start + (j * field_words + columns.first // 32) * 16
        for i in range(0, act_bits, 2):
            x_first, shift = i * field_words + columns.first // 32, np.int32(i + j)
            words = columns.size // 32
            if i + 1 < act_bits:
                _popcount2(data, first, stride, words, act_planes, x_first, field_words, totals, shift)
            else:
                _popcount1(data, first, stride, words, act_planes, x_first, field_words, totals, shift)


@inlined
def planes_of(widths: Array) -> int:
    """Bits of a weight code.

    A loop, because `widths.sum()` makes loading from the cache import SciPy.
    """
    planes = 0
    for width in widths:
        planes += width
    return planes


@inlined
def panel_words(widths: Array, k: int) -> int:
    """32-bit words of one panel with k stored columns."""
    return k // 32 * planes_of(widths) * 16


@compiled
def multiply_tokens(
    weight: Weight, act: Tokens, act_planes: Array, act_bits: int, first_panel: int, last_panel: int, output: Output
) -> None:
    """Multiply quantized tokens; up to MAX_TOKENS of them share one read of a panel.

    act.codes: (m, k_padded) int8.  act_planes: (m, words) bit planes, or (m, 0) for the byte dot product.
    """
    m, k = act.codes.shape
    batch = max(1, min(m, MAX_TOKENS))
    totals, y = np.empty((batch, ROWS), np.int32), np.empty((batch, ROWS), np.float32)
    full = (last_panel - first_panel) // PANELS
    rest = last_panel - first_panel - full * PANELS
    for i in range(full + rest):
        # Panels far apart, not neighbours: each memory stream continues where its previous panel ended.
        if i < full:
            panels = Panels(first_panel + i, PANELS, full)
        else:
            panels = Panels(first_panel + full * (PANELS - 1) + i, 1, 0)
        for token in range(0, m, batch):
            tokens = Rows(token, min(batch, m - token))
            y[:] = 0
            for g in range(act.sums.shape[1]):
                columns = Columns(g * weight.segment, min(weight.segment, k - g * weight.segment))
                totals[:] = 0
                if act_planes.shape[1]:
                    for t in range(tokens.size):
                        popcount_segment(weight, panels, columns, k, act_planes[token + t], act_bits, totals[t])
                else:
                    dot_segment(weight, panels, columns, act.codes, tokens, totals)
                finish_group(totals, weight, act, g, tokens, panels, y, output.integers)
            write_rows(y, act.scale, weight.bias, tokens, panels, output.y)


@compiled
def decode(
    x: Array,
    act_bits: int,
    by_planes: bool,
    weight_fields: tuple[Any, ...],
    first_panel: int,
    last_panel: int,
    out: Array,
    integers: Array,
) -> int:
    """Quantize x and multiply it with panels first_panel .. last_panel - 1 of a packed weight.

    y = s_a sum_g s_w (d sum qa qw - zw sum qa - za sum(d qw - zw)) + bias, with d the weight's spacing.

    x: (m, k) float32. Every thread quantizes all of x: that takes less time than starting a second function.
    by_planes: count bits instead of multiplying bytes.  weight_fields: the fields of `Weight`, as a plain tuple.
    out: (m, n) float32.  integers: (m, n, groups) int32 for the exact sums, or empty.
    Returns m, or the first token without a finite scale, in which case nothing is computed.
    """
    weight = Weight(*weight_fields)
    m, k_padded = x.shape[0], (x.shape[1] + 31) // 32 * 32
    groups = (x.shape[1] + weight.segment - 1) // weight.segment
    act = Tokens(
        np.empty((m, k_padded), np.int8),
        np.empty(m, np.float32),
        np.empty(m, np.int32),
        np.empty((m, groups), np.int32),
    )
    quantized = quantize_tokens(x, act_bits, weight.act_clip, weight.segment, 1, act)
    if quantized < m:
        return quantized
    act_planes = np.empty((m, act_bits * k_padded // 32 if by_planes else 0), np.uint32)
    if by_planes:
        for token in range(m):
            pack_planes(act.codes[token], act_bits, act_planes[token])
    multiply_tokens(weight, act, act_planes, act_bits, first_panel, last_panel, Output(out, integers))
    return m
