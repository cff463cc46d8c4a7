"""The epilogue of an integer product: zero points, scales, bias, exact sums for checks."""

import numpy as np

from kernels.cpu.arguments import Array, Panels, Rows, Tokens, Weight
from kernels.cpu.compile import inlined
from kernels.cpu.tile_loops import finish_panel


@inlined
def exact_sum(
    total: np.int32, spacing: np.int32, zero: np.int16, centred_sum: np.int32, act_sum: np.int32, act_zero: np.int32
) -> np.int32:
    """sum of (qa - za)(spacing qw - zw) from total = sum qa qw.

    `finish_panel` scales this integer.
    """
    return spacing * total - np.int32(zero) * act_sum - act_zero * centred_sum


@inlined
def finish_group(
    totals: Array, weight: Weight, act: Tokens, group: int, tokens: Rows, panels: Panels, y: Array, integers: Array
) -> None:
    """Scale one group's totals and add them to y.

    Copy the exact sums to `integers` unless it is empty.
    totals, y: (at least tokens.size, 16 * at least panels.size).  integers: (m, n, groups) int32.
    """
    spacing, zero, sums, scale = weight.spacing, weight.zero, weight.sums, weight.scale
    act_sums, act_zeros = act.sums, act.zero
    padded = scale.size // act_sums.shape[1]
    for t in range(tokens.size):
        act_sum, act_zero = act_sums[tokens.first + t, group], act_zeros[tokens.first + t]
        for p in range(panels.size):
            row, at = (panels.first + p * panels.apart) * 16, t * y.shape[1] + 16 * p
            side = group * padded + row
            finish_panel(totals, at, spacing, zero, sums, scale, side, act_sum, act_zero, y, at)
            if integers.size:
                for r in range(min(16, integers.shape[1] - row)):
                    integers[tokens.first + t, row + r, group] = exact_sum(
                        totals[t, 16 * p + r], spacing, zero[side + r], sums[side + r], act_sum, act_zero
                    )


@inlined
def write_rows(y: Array, act_scale: Array, bias: Array, tokens: Rows, panels: Panels, out: Array) -> None:
    """Write the rows of these panels to `out`: y times the token's scale, plus the bias."""
    for t in range(tokens.size):
        token, act_s = tokens.first + t, act_scale[tokens.first + t]
        for p in range(panels.size):
            row = (panels.first + p * panels.apart) * 16
            rows = min(16, out.shape[1] - row)
            if bias.size:
                for r in range(rows):
                    out[token, row + r] = y[t, 16 * p + r] * act_s + bias[row + r]
            else:
                for r in range(rows):
                    out[token, row + r] = y[t, 16 * p + r] * act_s
