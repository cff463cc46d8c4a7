"""Float32 tokens times a packed weight: codes become float32 in registers, never in memory."""

from typing import Any, NamedTuple

import numpy as np

from kernels.cpu.arguments import Array, Columns, Panels, Rows, Weight
from kernels.cpu.compile import compiled, inlined
from kernels.cpu.decode import planes_of
from kernels.cpu.prefill import BLOCK_COLUMNS, BLOCK_TOKENS, unpack_block
from kernels.cpu.tile_loops import FLOAT_TILE_TOKENS, float_tile
from kernels.cpu.vectors import TARGET

PANELS = TARGET.decode_panels
ROWS = 16 * PANELS

_one_token, _four_tokens = float_tile(1), float_tile(FLOAT_TILE_TOKENS)


class Scratch(NamedTuple):
    """Buffers of one thread, reused for every group."""

    codes: Array  # uint32, BLOCK_COLUMNS unpacked columns of PANELS panels
    zeros: Array  # int32 (ROWS,)
    no_zeros: Array  # int32 (ROWS,), all 0: zero points are subtracted once, not again with the ninth plane
    scales: Array  # float32 (ROWS,)


@inlined
def doublings(spacing: np.int32) -> int:
    """The base-2 logarithm of a spacing, which is a power of two."""
    count = 0
    while spacing >> count > 1:
        count += 1
    return count


@inlined
def multiply_group(
    weight: Weight, panels: Panels, group: int, x: Array, tokens: Rows, scratch: Scratch, y: Array
) -> None:
    """y += s_w sum x (d qw - zw) over one group's columns of neighbouring panels.

    y: (BLOCK_TOKENS, ROWS).
    x: (m, k_padded) float32.
    """
    k = x.shape[1]
    codes, zeros, no_zeros, scales = scratch
    groups = (k + weight.segment - 1) // weight.segment
    side = group * (weight.scale.size // groups) + panels.first * 16
    zero, scale = weight.zero, weight.scale
    for r in range(16 * panels.size):
        zeros[r], scales[r] = zero[side + r], scale[side + r]
    end = min((group + 1) * weight.segment, k)
    for begin in range(group * weight.segment, end, BLOCK_COLUMNS):
        count = min(BLOCK_COLUMNS, end - begin)
        words, stride = count // 4, count * 4
        for low in range(0, planes_of(weight.widths), 8):
            for p in range(panels.size):
                unpack_block(weight, panels.first + p, k, Columns(begin, count), low, codes, p * stride)
            offsets, shift = zeros if low == 0 else no_zeros, np.int32(low + doublings(weight.spacing))
            for t in range(0, tokens.size, FLOAT_TILE_TOKENS):
                x_start, y_start = (tokens.first + t) * k + begin, t * ROWS
                if x.shape[0] == 1:
                    _one_token(codes, stride, words, x, x_start, k, offsets, shift, scales, y, y_start)
                else:
                    _four_tokens(codes, stride, words, x, x_start, k, offsets, shift, scales, y, y_start)


@compiled
def weight_only(weight_fields: tuple[Any, ...], x: Array, first_panel: int, last_panel: int, out: Array) -> None:
    """y = sum_g s_w sum x (d qw - zw) + bias in float32.

    For the rows of panels first_panel .. last_panel - 1.

    weight_fields: the fields of `Weight`, d its spacing.  x: (m, k_padded) float32, padded with zeros in both
    dimensions; m is a multiple of FLOAT_TILE_TOKENS, or 1.  out: (m without padding, n) float32.
    """
    weight = Weight(*weight_fields)
    bias = weight.bias
    k = x.shape[1]
    m, n = out.shape
    scratch = Scratch(
        np.empty(BLOCK_COLUMNS * 4 * PANELS, np.uint32),
        np.zeros(ROWS, np.int32),
        np.zeros(ROWS, np.int32),
        np.zeros(ROWS, np.float32),
    )
    y = np.empty((min(BLOCK_TOKENS, x.shape[0]), ROWS), np.float32)
    for panel in range(first_panel, last_panel, PANELS):
        panels = Panels(panel, min(PANELS, last_panel - panel), 1)
        for token in range(0, m, BLOCK_TOKENS):
            tokens = Rows(token, min(BLOCK_TOKENS, m - token))
            y[:] = 0
            for group in range((k + weight.segment - 1) // weight.segment):
                multiply_group(weight, panels, group, x, tokens, scratch, y)
            for t in range(tokens.size):
                for r in range(min(16 * panels.size, n - 16 * panel)):
                    row = panel * 16 + r
                    out[token + t, row] = y[t, r] + (bias[row] if bias.size else np.float32(0))
