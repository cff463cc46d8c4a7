"""The entry point of products y = x W^T: takes the fastest path that passed its self-test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.paths import DEQUANTIZED
from kernels.cuda.device_tensors import DeviceWeight
from kernels.fake_quant import rounding_errors
from kernels.formats.activations import NotFiniteError, quantize_activations, refuse_not_finite
from kernels.formats.planes import ShapeError
from kernels.formats.weight import PackedWeight
from kernels.hadamard import transformed
from kernels.host.threads import thread_count

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from kernels.cuda.inputs import Input

NUMPY = "numpy"
_BLOCK_ROWS = 512
_ACT_BITS = frozenset((*range(1, 9), 16))


@overload
def linear(
    x: NDArray[np.float32], weight: PackedWeight, act_bits: int, threads: int | None = None
) -> NDArray[np.float32]: ...
@overload
def linear(x: Input, weight: DeviceWeight, act_bits: int, threads: int | None = None) -> Tensor: ...
def linear(
    x: NDArray[np.float32] | Input, weight: PackedWeight | DeviceWeight, act_bits: int, threads: int | None = None
) -> NDArray[np.float32] | Tensor:
    """y = x W^T + bias with quantized activations; the integer product is exact.

    y = s_a s_w (sum qa qw - zw sum qa - za sum qw + K za zw) + bias (arXiv 2408.08554).
    x: (m, k) float32.  act_bits: 1..8, quantized per token, or 16: the weight is dequantized and the product is in
    float32.  threads: at most this many (None: ABQ_THREADS, or all cores).  Returns (m, n) float32.
    A weight on a GPU (`kernels.gpu.upload`) multiplies a tensor on that GPU; the result has the tensor's dtype.
    Raises ShapeError, ThreadsError, and NotFiniteError for a token with NaN or infinity. On a GPU that check would
    force a synchronization, so the outputs of such a token are NaN instead.
    """
    if isinstance(weight, DeviceWeight):
        return _gpu_engine().linear(x, weight, act_bits)
    x = _checked(x, weight)
    path = path_for(weight, x.shape[0], act_bits)
    engine = _engine()
    if path == DEQUANTIZED:
        return _transform_and_multiply(x, weight, engine.linear_dequantized, threads)
    if path != NUMPY:
        return _transform_and_multiply(x, weight, engine.linear, act_bits, path, threads)
    if act_bits == 16:
        return _transform_and_multiply(x, weight, _dequantized_linear)
    return _transform_and_multiply(x, weight, _numpy_linear, act_bits)


def linear_in_two_parts(x: NDArray[np.float32], weight: PackedWeight, act_bits: int) -> NDArray[np.float32]:
    """`linear` of x (m, k) rounded to act_bits (1..8), plus `linear` of its rounding error: twice as many bits.

    The error is a second token of the same product, so the weight is read once. weight: without a Hadamard transform
    and with an act_clip of 1. Returns (m, n) float32. Raises what `linear` raises.
    """
    x = _checked(x, weight)
    y = linear(np.concatenate([x, rounding_errors(x, act_bits)]), weight, act_bits)
    return y[: len(x)] + y[len(x) :]


@overload
def look_up(weight: PackedWeight, ids: NDArray[np.integer]) -> NDArray[np.float32]: ...
@overload
def look_up(weight: DeviceWeight, ids: Tensor, dtype: dtype) -> Tensor: ...
def look_up(
    weight: PackedWeight | DeviceWeight, ids: NDArray[np.integer] | Tensor, dtype: dtype | None = None
) -> NDArray[np.float32] | Tensor:
    """Dequantize rows of a packed weight, as an embedding does: (len(ids), k).

    ids: (m,) integers.  The result is float32; for a weight on a GPU it is a tensor of `dtype` on that GPU.
    Raises ShapeError for a number that is no row. On a GPU that check would force a synchronization, so the values of
    such a row are NaN instead.
    """
    if isinstance(weight, DeviceWeight):
        return _gpu_engine().look_up(weight, ids, dtype)
    return weight.look_up(np.asarray(ids))


@overload
def exact_integers(
    x: NDArray[np.float32], weight: PackedWeight, act_bits: int, threads: int | None = None
) -> NDArray[np.int32]: ...
@overload
def exact_integers(x: Tensor, weight: DeviceWeight, act_bits: int, threads: int | None = None) -> Tensor: ...
def exact_integers(
    x: NDArray[np.float32] | Tensor, weight: PackedWeight | DeviceWeight, act_bits: int, threads: int | None = None
) -> NDArray[np.int32] | Tensor:
    """The integer sums inside `linear`, (m, n, groups) int32, for checks.

    They are (qa - za)(spacing qw - zw), summed over each group.  act_bits: 1..8.  Always runs the engine's path, even
    if `linear` would fall back to NumPy, so that a check sees what the engine computes.  Raises what `linear` raises.
    """
    if isinstance(weight, DeviceWeight):
        return _gpu_engine().exact_integers(x, weight, act_bits)
    if act_bits not in _ACT_BITS or act_bits == 16:
        raise ShapeError(f"act_bits is {act_bits}: exact integers need quantized activations of 1..8 bits")
    x = _checked(x, weight)
    engine = _engine()
    integers = np.empty((len(x), weight.n, weight.groups), np.int32)
    path = engine.path_for(weight, len(x), act_bits)
    _transform_and_multiply(x, weight, engine.linear, act_bits, path, threads, integers)
    return integers


def path_for(weight: PackedWeight | DeviceWeight, m: int, act_bits: int) -> str:
    """The name of the path that `linear` takes for m tokens.

    "avx512-vnni", "avx2" or "portable" (byte dot product, by instruction set), "avx512-bitserial", "avx2-bitserial",
    "int8-gemm", "dequantized-fp32", "numpy"; on a GPU "cuda-binary", "cuda-int8", "cuda-int8-library",
    "cuda-dequantized". Raises ShapeError if act_bits is neither 1..8 nor 16.
    """
    if isinstance(weight, DeviceWeight):
        return _gpu_engine().path_for(weight, m, act_bits)
    if act_bits not in _ACT_BITS:
        raise ShapeError(f"act_bits is {act_bits}: use 1..8, or 16 for activations that are not quantized")
    engine = _engine()
    path = engine.path_for(weight, m, act_bits)
    return path if engine.works(path) else NUMPY


def describe() -> dict[str, object]:
    """The CPU and its paths: {"cpu", "instructions", "paths": {path: works}, "threads"}."""
    from kernels.host.processor import cpu_name, features

    engine = _engine()
    shown = [name for name in ("avx2", "avxvnni", "avx512f", "avx512vnni", "avx512vpopcntdq") if name in features()]
    paths = {path: engine.works(path) for path in engine.PATHS}
    return {
        "cpu": cpu_name(),
        "instructions": shown,
        "paths": {**paths, NUMPY: True},
        "threads": thread_count(),
    }


def _checked(x: NDArray[np.float32] | Input, weight: PackedWeight) -> NDArray[np.float32]:
    """x as aligned row-major float32, which the compiled functions require. Raises ShapeError."""
    if not isinstance(x, np.ndarray):
        raise ShapeError(
            f"a weight in CPU memory takes NumPy activations, not {type(x).__name__}; upload the weight first"
        )
    if x.ndim != 2 or x.shape[1] != weight.k:
        raise ShapeError(f"activations of shape {x.shape} do not fit a weight ({weight.n}, {weight.k})")
    if x.dtype != np.float32 or not x.flags.carray:  # row-major, aligned and writable
        if x.dtype.kind not in "fiub":
            raise ShapeError(f"activations must be real numbers, got {x.dtype}")
        with np.errstate(over="ignore"):  # overflow becomes infinity, which the product refuses
            x = np.array(x, np.float32, order="C")
    return x


def _transform_and_multiply(
    x: NDArray[np.float32], weight: PackedWeight, product: Callable[..., NDArray[np.float32]], *settings: object
) -> NDArray[np.float32]:
    """Apply the weight's Hadamard transform to x, then `product(x, weight, *settings)`.

    Raises NotFiniteError with the position in x itself: the transform would spread a NaN over its block.
    """
    try:
        return product(x if weight.hadamard == 1 else transformed(x, weight.hadamard), weight, *settings)
    except NotFiniteError:
        refuse_not_finite(x)
        raise


@cache
def _engine() -> ModuleType:
    """The Numba engine, imported at first use because Numba takes a second to import."""
    from kernels.cpu import engine

    return engine


@cache
def _gpu_engine() -> ModuleType:
    """The CUDA engine, imported at first use."""
    from kernels.cuda import engine

    return engine


def _numpy_linear(x: NDArray[np.float32], weight: PackedWeight, act_bits: int) -> NDArray[np.float32]:
    """The fallback: integer sums by BLAS in float64, which is exact below 2^53."""
    act_codes, act_scale, act_zero, _ = quantize_activations(x, act_bits, weight.act_clip)
    centred = act_codes.astype(np.float64) - act_zero[:, None]
    out = np.empty((len(x), weight.n), np.float32)
    for start in range(0, weight.n, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, weight.n))
        levels = weight.levels(rows.start, rows.stop).astype(np.float64)
        zero, scale = weight.zero[rows], weight.scale[rows]
        y = np.zeros((len(x), len(levels)), np.float32)
        for g, column in enumerate(range(0, weight.k, weight.segment)):
            columns = slice(column, column + weight.segment)
            totals = centred[:, columns] @ (levels[:, columns] - zero[:, [g]]).T
            y += totals.astype(np.float32) * scale[:, g]
        out[:, rows] = y * act_scale[:, None]
    return out if weight.bias is None else out + weight.bias


def _dequantized_linear(x: NDArray[np.float32], weight: PackedWeight) -> NDArray[np.float32]:
    """Weight-only quantization: dequantize blocks of rows and multiply by BLAS."""
    refuse_not_finite(x)
    out = np.empty((len(x), weight.n), np.float32)
    for start in range(0, weight.n, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, weight.n)
        np.matmul(x, weight.dequantize(start, stop).T, out=out[:, start:stop])
    return out if weight.bias is None else out + weight.bias
