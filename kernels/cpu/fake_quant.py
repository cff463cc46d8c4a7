"""Fake quantization of rows of float32, each on its own grid, in one pass over memory, its gradients in another."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled
from kernels.cpu.quantize import row_range

Array = NDArray[Any]


@compiled
def ends(x: Array, first: int, last: int, low: Array, high: Array, at: Array) -> None:
    """Least and greatest value of rows first .. last - 1 of x (rows, n), the range widened to hold 0.

    at: (rows, 2) int64, the columns where the two stand, -1 for a 0 that is none of x.  NaN shows as an end.
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
def on_grid(
    x: Array, scale: Array, zero: Array, offset: Array, top: np.float32, first: int, last: int, out: Array
) -> None:
    """out = (clamp(rint(x / scale + offset + zero), 0, top) - zero) * scale for rows first .. last - 1.

    scale, zero: (rows,), what is whole of zero added after rounding.  offset: as x, or (0, 0) for none.
    """
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
    gradient: Array,
    x: Array,
    scale: Array,
    zero: Array,
    offset: Array,
    top: np.float32,
    first: int,
    last: int,
    for_x: Array,
    for_scale: Array,
    for_zero: Array,
) -> None:
    """Gradients of `on_grid`, rounding passed as the identity and x beyond the grid's ends given none.

    gradient, for_x: as x.  for_scale, for_zero: (rows,).
    """
    for row in range(first, last):
        step, origin = scale[row], zero[row]
        whole = np.floor(origin)
        by_code, by_value, outside = np.float32(0), np.float32(0), np.float32(0)
        for column in range(x.shape[1]):
            steps = x[row, column] / step
            if offset.size:
                steps += offset[row, column]
            code = np.rint(steps + (origin - whole)) + whole
            given = gradient[row, column]
            within = given if (code >= np.float32(0)) & (code <= top) else np.float32(0)
            for_x[row, column] = within
            by_code += given * (min(max(code, np.float32(0)), top) - origin)
            by_value += within * x[row, column]
            outside += within - given
        for_scale[row] = by_code - by_value / step
        for_zero[row] = outside * step
