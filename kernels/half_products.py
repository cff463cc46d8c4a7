"""A weight of 16-bit floats times one token on the CPU, in float32: the LM head of a model in full precision."""

from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernels.formats.planes import ShapeError
from kernels.host.threads import run_ranges, thread_count

_Floats = NDArray[np.float32]
_ROW_STEP = 64
_WORTH_A_THREAD = 1 << 22  # multiplications


def bfloat16_product(weight: NDArray[np.uint16], x: _Floats, threads: int | None = None) -> _Floats:
    """weight (n, k), bfloat16 bits, times x (k,), accumulated in float32 -> (n,).

    Raises ShapeError, ThreadsError.
    """
    return _product(_compiled().bfloat16_rows, weight, x, threads)


def float16_product(weight: NDArray[np.uint16], x: _Floats, threads: int | None = None) -> _Floats:
    """weight (n, k), float16 bits of finite values, times x (k,), accumulated in float32 -> (n,).

    Raises ShapeError, ThreadsError.
    """
    return _product(_compiled().float16_rows, weight, x, threads)


def _product(rows: Callable[..., None], weight: NDArray[np.uint16], x: _Floats, threads: int | None) -> _Floats:
    if weight.ndim != 2 or x.shape != weight.shape[1:]:
        raise ShapeError(f"an input of shape {x.shape} does not fit a weight {weight.shape}")
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty(len(weight), np.float32)

    def run(first: int, last: int) -> None:
        rows(weight, x, first, last, out)

    run_ranges(run, len(weight), _ROW_STEP, thread_count(threads) if weight.size >= _WORTH_A_THREAD else 1)
    return out


@cache
def _compiled() -> ModuleType:
    """The compiled functions, imported on first use: importing Numba takes a second."""
    from kernels.cpu import half_products

    return half_products
