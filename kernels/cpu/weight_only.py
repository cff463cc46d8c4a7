"""Full-precision tokens times a packed weight: codes become float32 in registers, never in memory."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled
from kernels.cpu.decode import planes_of
from kernels.cpu.prefill import BLOCK_COLUMNS, BLOCK_TOKENS, unpack_block
from kernels.cpu.tile_loops import FLOAT_TILE_TOKENS, float_tile
from kernels.cpu.vectors import TARGET

Array = NDArray[Any]

PANELS = TARGET.decode_panels
ROWS = 16 * PANELS

_one_token, _four_tokens = float_tile(1), float_tile(FLOAT_TILE_TOKENS)


@compiled
def weight_only(
    data: Array,
    widths: Array,
    segment: int,
    spacing: int,
    scale: Array,
    zero: Array,
    bias: Array,
    x: Array,
    first_panel: int,
    last_panel: int,
    out: Array,
) -> None:
    """y = sum_g s_w sum x (d qw - zw) + bias in float32, for the rows of panels first .. last - 1.

    The weight's arrays are PackedWeight's, d its spacing, 1 or 2; bias may be empty.  x: (m, k_padded) float32, m
    padded to FLOAT_TILE_TOKENS unless it is 1, padding 0.  out: (m, n) float32.
    """
    k = x.shape[1]
    m, n = out.shape
    planes = planes_of(widths)
    row_words = k // 32 * planes * 16
    padded = (n + 15) // 16 * 16
    scratch = np.empty(BLOCK_COLUMNS * 4 * PANELS, np.uint32)
    zeros, none = np.zeros(ROWS, np.int32), np.zeros(ROWS, np.int32)
    scales = np.zeros(ROWS, np.float32)
    y = np.empty((min(BLOCK_TOKENS, x.shape[0]), ROWS), np.float32)
    for panel in range(first_panel, last_panel, PANELS):
        panels = min(PANELS, last_panel - panel)
        rows = min(16 * panels, n - 16 * panel)
        for token in range(0, m, BLOCK_TOKENS):
            tokens = min(BLOCK_TOKENS, m - token)
            y[:] = 0
            for g in range((k + segment - 1) // segment):
                for r in range(rows):
                    zeros[r] = zero[g * padded + panel * 16 + r]
                    scales[r] = scale[g * padded + panel * 16 + r]
                end = min((g + 1) * segment, k)
                for begin in range(g * segment, end, BLOCK_COLUMNS):
                    count = min(BLOCK_COLUMNS, end - begin)
                    words, stride = count // 4, count * 4
                    for low in range(0, planes, 8):
                        for p in range(panels):
                            start = (panel + p) * row_words
                            unpack_block(data, widths, start, k // 32, begin, count, low, low + 8, scratch, p * stride)
                        offsets, shift = zeros if low == 0 else none, np.int32(low + spacing - 1)
                        for t in range(0, tokens, FLOAT_TILE_TOKENS):
                            x_start, y_start = (token + t) * k + begin, t * ROWS
                            if m == 1:
                                _one_token(scratch, stride, words, x, x_start, k, offsets, shift, scales, y, y_start)
                            else:
                                _four_tokens(scratch, stride, words, x, x_start, k, offsets, shift, scales, y, y_start)
            for t in range(tokens):
                for r in range(rows):
                    row = panel * 16 + r
                    out[token + t, row] = y[t, r] + (bias[row] if bias.size else np.float32(0))
