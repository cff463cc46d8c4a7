"""Fake quantization of rows of float32 on the CPU: one pass over memory where tensor operations take ten."""

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernels.host.threads import run_ranges, thread_count

_Floats = NDArray[np.float32]
_WORTH_A_THREAD = 1 << 16  # values


def ends(x: _Floats) -> tuple[_Floats, _Floats, NDArray[np.int64]]:
    """Least and greatest value of each row of x (rows, n), contiguous, the range widened to hold 0: (rows,) each.

    Third: (rows, 2) int64, the columns where they stand, -1 for a 0 that is none of x.  NaN or infinity is an end.
    """
    low, high, at = (*np.empty((2, len(x)), np.float32), np.empty((len(x), 2), np.int64))
    _each_row(x, lambda first, last: _compiled().ends(x, first, last, low, high, at))
    return low, high, at


def on_grid(x: _Floats, scale: _Floats, zero: _Floats, offset: _Floats | None, top: int) -> _Floats:
    """(clamp(rint(x / scale + offset + zero), 0, top) - zero) * scale for x (rows, n), contiguous.

    scale, zero: (rows,), what is whole of zero added after rounding.  offset: as x, in steps of the grid; None for 0.
    """
    out = np.empty_like(x)
    work = partial(_compiled().on_grid, x, scale, zero, _array(offset), np.float32(top))
    _each_row(x, lambda first, last: work(first, last, out))
    return out


def on_grid_gradients(
    gradient: _Floats, x: _Floats, scale: _Floats, zero: _Floats, offset: _Floats | None, top: int
) -> tuple[_Floats, _Floats, _Floats]:
    """Gradients of `on_grid` for x (rows, n), scale and zero (rows,), given those of its result.

    Rounding passes them as the identity; beyond the grid's ends x gets none. That for the offset is x's times scale.
    """
    for_x, (for_scale, for_zero) = np.empty_like(x), np.empty((2, len(x)), np.float32)
    work = partial(_compiled().on_grid_gradients, gradient, x, scale, zero, _array(offset), np.float32(top))
    _each_row(x, lambda first, last: work(first, last, for_x, for_scale, for_zero))
    return for_x, for_scale, for_zero


def _each_row(x: _Floats, work: Callable[[int, int], None]) -> None:
    threads = thread_count() if x.size >= _WORTH_A_THREAD else 1
    run_ranges(work, len(x), 1, threads)


def _array(offset: _Floats | None) -> _Floats:
    return np.empty((0, 0), np.float32) if offset is None else offset


@cache
def _compiled() -> ModuleType:
    """Numba is imported at the first use."""
    from kernels.cpu import fake_quant

    return fake_quant
