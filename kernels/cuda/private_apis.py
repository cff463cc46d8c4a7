"""The undocumented functions of torch and CuPy that the GPU engine needs, all in this file.

Checked with torch 2.13 and CuPy 14. `tests/kernels/cuda/test_private_apis.py` fails when torch changes one of them;
the tests marked `gpu` cover CuPy's.

torch has no documented integer matmul: `_int_mm` is cuBLASLt's INT8 product, the other two are the INT4 weight-only
kernel of torchao. CuPy documents neither its driver bindings nor its NVRTC bindings; both mirror NVIDIA's C API.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class CupyMissingError(RuntimeError):
    """CuPy, or the CUDA library behind one of its bindings, cannot be imported."""


class CudaBindings(NamedTuple):
    """CuPy's modules for the CUDA driver API and the CUDA runtime API."""

    driver: Any
    runtime: Any


def int8_matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a (m, k) int8 @ b (k, n) int8, exact in int32.

    cuBLASLt needs m > 16, and k and n divisible by 8.
    """
    import torch

    return torch._int_mm(a, b) if out is None else torch._int_mm(a, b, out=out)


def pack_int4(codes: Tensor, inner_k_tiles: int) -> Tensor:
    """Pack pairs of 4-bit codes, (n, k / 2) uint8, into the layout of `int4_matmul`."""
    import torch

    return torch._convert_weight_to_int4pack(codes, inner_k_tiles)


def int4_matmul(x: Tensor, packed: Tensor, group_size: int, scale_and_zero: Tensor) -> Tensor:
    """x (m, k) bfloat16 times a weight of `pack_int4`.

    scale_and_zero: (k / group_size, n, 2) bfloat16.
    """
    import torch

    return torch._weight_int4pack_mm(x, packed, group_size, scale_and_zero)


@cache
def nvrtc() -> Any:
    """CuPy's bindings of NVRTC, the CUDA runtime compiler. Raises CupyMissingError."""
    try:
        bindings = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
        bindings.getVersion()
    except (ImportError, RuntimeError) as error:
        raise CupyMissingError(str(error)) from error
    return bindings


def cuda_bindings() -> CudaBindings:
    """CuPy's bindings of the CUDA driver and runtime. Raises CupyMissingError."""
    try:
        return CudaBindings(
            *(importlib.import_module(f"cupy_backends.cuda.api.{name}") for name in CudaBindings._fields)
        )
    except ImportError as error:
        raise CupyMissingError(str(error)) from error
