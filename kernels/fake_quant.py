"""Fake quantization of float32 rows on the CPU, in one pass over memory.

The same in torch takes ten tensor operations.
"""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernels.host.threads import run_ranges, thread_count

_Floats = NDArray[np.float32]
_WORTH_A_THREAD = 1 << 16  # values


def ends(x: _Floats) -> tuple[_Floats, _Floats, NDArray[np.int64]]:
    """Minimum and maximum of each row of x (rows, n), widened to include 0: (rows,) each.

    x must be contiguous.
    Third result: (rows, 2) int64, the columns of the two; -1 for a 0, also where an element is 0.  NaN and infinity
    become a minimum or maximum.
    """
    low, high, at = (*np.empty((2, len(x)), np.float32), np.empty((len(x), 2), np.int64))
    _each_row(x, lambda first, last: _compiled().ends(x, first, last, low, high, at))
    return low, high, at


def on_grid(x: _Floats, scale: _Floats, zero: _Floats, offset: _Floats | None, top: int) -> _Floats:
    """(clamp(rint(x / scale + offset + zero), 0, top) - zero) * scale, for contiguous x.

    x: (rows, n).
    scale, zero: (rows,); the integer part of zero is added after rounding.  offset: same shape as x, in units of the
    scale; None for 0.
    """
    out = np.empty_like(x)
    grid = scale, zero, _array(offset), np.float32(top)
    _each_row(x, lambda first, last: _compiled().on_grid(x, grid, first, last, out))
    return out


def on_grid_gradients(
    gradient: _Floats, x: _Floats, scale: _Floats, zero: _Floats, offset: _Floats | None, top: int
) -> tuple[_Floats, _Floats, _Floats]:
    """Gradients of `on_grid` for x, scale and zero, from the gradient of its result.

    x: (rows, n).  scale, zero: (rows,).
    Straight-through estimator: rounding is the identity, and clamped elements of x get 0. The gradient for the offset
    is that of x times the scale.
    """
    for_x, (for_scale, for_zero) = np.empty_like(x), np.empty((2, len(x)), np.float32)
    grid, out = (scale, zero, _array(offset), np.float32(top)), (for_x, for_scale, for_zero)
    _each_row(x, lambda first, last: _compiled().on_grid_gradients(gradient, x, grid, first, last, out))
    return out


def _each_row(x: _Floats, work: Callable[[int, int], None]) -> None:
    threads = thread_count() if x.size >= _WORTH_A_THREAD else 1
    run_ranges(work, len(x), 1, threads)


def _array(offset: _Floats | None) -> _Floats:
    return np.empty((0, 0), np.float32) if offset is None else offset


def rounding_errors(x: _Floats, bits: int) -> _Floats:
    """x (m, k) minus its values on the grids of 2^bits levels per row that the engine rounds activations to.

    Rows that are not finite are copied.
    """
    out = np.empty_like(x)
    _compiled().rounding_errors(x, bits, out)
    return out


@cache
def _compiled() -> ModuleType:
    """The compiled functions, imported on first use: importing Numba takes a second."""
    from kernels.cpu import fake_quant

    return fake_quant
