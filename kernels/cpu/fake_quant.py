"""Fake quantization of float32 rows, each with its own grid, and its gradients.

Each takes one pass over memory.
"""

from functools import partial
from typing import Any

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.quantize import row_grid, row_range


@compiled
def ends(x: Array, first: int, last: int, low: Array, high: Array, at: Array) -> None:
    """Minimum and maximum of rows first .. last - 1 of x (rows, n), widened to include 0.

    at: (rows, 2) int64, the columns of the two; -1 for a 0, also where an element is 0.  NaN becomes a min or max.
    """
    for row in range(first, last):
        least, greatest, _ = row_range(x[row])
        low[row], high[row] = least, greatest
        at[row, 0] = _where(x[row], least)
        at[row, 1] = _where(x[row], greatest)


@compiled
def _where(row: Array, value: np.float32) -> int:
    if value == 0:
        return -1
    for column in range(row.size):
        if row[column] == value:
            return column
    return -1


@compiled
def on_grid(x: Array, grid: tuple[Any, ...], first: int, last: int, out: Array) -> None:
    """out = (clamp(rint(x / scale + offset + zero), 0, top) - zero) * scale.

    For rows first .. last - 1.

    grid: (scale, zero, offset, top).  scale, zero: (rows,); the integer part of zero is added after rounding.
    offset: same shape as x, or (0, 0) for none.  top: float32, the largest code.
    """
    scale, zero, offset, top = grid
    for row in range(first, last):
        step, origin = scale[row], zero[row]
        whole = np.floor(origin)
        for column in range(x.shape[1]):
            steps = x[row, column] / step
            if offset.size:
                steps += offset[row, column]
            code = min(max(np.rint(steps + (origin - whole)) + whole, np.float32(0)), top)
            out[row, column] = (code - origin) * step


@partial(compiled, reorder_sums=True)
def on_grid_gradients(
    gradient: Array, x: Array, grid: tuple[Any, ...], first: int, last: int, out: tuple[Array, Array, Array]
) -> None:
    """Gradients of `on_grid` with a straight-through estimator.

    Rounding is the identity, and clamped x gets 0.

    gradient: same shape as x.  grid: as in `on_grid`.  out: gradients for x (same shape), scale and zero (rows,).
    """
    scale, zero, offset, top = grid
    for_x, for_scale, for_zero = out
    for row in range(first, last):
        step, origin = scale[row], zero[row]
        whole = np.floor(origin)
        by_code, by_value, outside = np.float32(0), np.float32(0), np.float32(0)
        for column in range(x.shape[1]):
            steps = x[row, column] / step
            if offset.size:
                steps += offset[row, column]
            code = np.rint(steps + (origin - whole)) + whole
            upstream = gradient[row, column]
            within = upstream if (code >= np.float32(0)) & (code <= top) else np.float32(0)
            for_x[row, column] = within
            by_code += upstream * (min(max(code, np.float32(0)), top) - origin)
            by_value += within * x[row, column]
            outside += within - upstream
        for_scale[row] = by_code - by_value / step
        for_zero[row] = outside * step


@compiled
def rounding_errors(x: Array, bits: int, out: Array) -> None:
    """out = x minus its values on a grid of 2^bits levels per row, the grid of `quantize_tokens`.

    x, out: (m, k) float32. Rows that are not finite are copied.
    """
    top = np.float32((1 << bits) - 1)
    for t in range(x.shape[0]):
        step, offset, finite = row_grid(x[t], np.float32(1), top)
        if not finite:
            out[t] = x[t]
            continue
        for i in range(x.shape[1]):
            code = min(max(np.rint(x[t, i] / step) + offset, np.float32(0)), top)
            out[t, i] = x[t, i] - (code - offset) * step
