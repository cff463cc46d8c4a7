"""Decode-step operations on the CPU: norm, RoPE, attention, gate and LM head.

Packed products are in `kernels.dispatch`.
"""

import math
from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernels.formats.activations import not_finite
from kernels.formats.planes import ShapeError
from kernels.host.threads import run_ranges, thread_count

_Floats = NDArray[np.float32]
_ROW_STEP = 64
_WORTH_A_THREAD = 1 << 22  # multiplications


def add_norm(x: _Floats, added: _Floats, weight: _Floats, epsilon: float) -> _Floats:
    """Add `added` (k,), or nothing if empty, to x (k,) in place.

    Return its RMS norm times weight as (1, k).
    RMS norm: weight * x / sqrt(mean(x^2) + epsilon). Raises NotFiniteError if the sum of squares is not finite.
    """
    out = np.empty((1, x.size), np.float32)
    if not math.isfinite(_compiled().add_norm(x, added, weight, np.float32(epsilon), out[0])):
        raise not_finite(x[None], 0)
    return out


def gated(gate_up: _Floats) -> _Floats:
    """silu(gate) * up for gate_up (2 k,), gate first. Returns (1, k)."""
    out = np.empty((1, gate_up.size // 2), np.float32)
    _compiled().gated(gate_up, out[0])
    return out


def rotate(x: _Floats, cos: _Floats, sin: _Floats) -> None:
    """Rotary position embedding of x (heads, d) in place; channel i is paired with i + d / 2.

    cos, sin: (d,).
    """
    _compiled().rotate(x, cos, sin)


def attend(query: _Floats, keys: _Floats, values: _Floats, first: int, last: int, scale: float) -> _Floats:
    """Softmax attention of query (heads, d) over positions first .. last - 1 of a cache.

    Returns (1, heads * d).
    keys, values: (kv_heads, capacity, d).  Consecutive heads share a KV head.
    """
    out = np.empty(query.shape, np.float32)
    _compiled().attend(query, keys, values, first, last, np.float32(scale), out)
    return out.reshape(1, -1)


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
    from kernels.cpu import decode_ops

    return decode_ops
