"""torch's INT8 product (cuBLASLt) as a baseline, between two fused kernels.

Built from torch operations, a linear needs about ten more launches, which would dominate the comparison at one token.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

from kernels.cuda import driver
from kernels.cuda.device_tensors import padded_int8_tokens
from kernels.cuda.engine import passes_self_test
from kernels.cuda.inputs import InputArguments, input_arguments, kind_of, type_name, values_of
from kernels.cuda.launch import threads_per_token
from kernels.cuda.private_apis import int8_matmul
from kernels.cuda.tiles import THREADS, round_name, scale_name
from kernels.formats.planes import ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cuda.inputs import Input

_MULTIPLE = 8  # cuBLASLt needs n and k divisible by 8
_SHARED = 128
_pointer = ctypes.c_uint64


class RoundArguments(ctypes.Structure):
    """`RoundArguments` of int8.cu."""

    _fields_ = (("input", InputArguments), ("codes", _pointer), ("scale", _pointer))


class ScaleArguments(ctypes.Structure):
    """`ScaleArguments` of int8.cu."""

    _fields_ = (
        *((name, _pointer) for name in ("sums", "token_scale", "scale", "bias", "out")),
        ("n", ctypes.c_int32),
    )


def fits(codes: Tensor) -> bool:
    """Whether cuBLASLt supports a weight of this shape (n, k)."""
    return all(length % _MULTIPLE == 0 for length in codes.shape)


def linear(x: Input, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias with W = codes * scale and tokens quantized to 8 symmetric bits.

    Returns (m, n) of x's dtype.
    x: (m, k), plain or fused (`kernels.cuda.inputs`).  codes: (n, k) int8, which `fits`.  scale: (n,) float32.
    bias: (n,) of x's dtype.  The outputs of a token with NaN or infinity are NaN.
    Raises ShapeError, CudaError, CompileError.
    """
    import torch

    values, (m, k), n = values_of(x), x.shape, len(codes)
    if k != codes.shape[1] or not fits(codes):
        raise ShapeError(f"activations of shape {(m, k)} do not fit an INT8 weight {tuple(codes.shape)}")
    on, name = driver.device_of(codes), type_name(values.dtype)

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=values.device)

    rounded, token_scale = empty(padded_int8_tokens(m), k, dtype=torch.int8), empty(m, dtype=torch.float32)
    arguments = RoundArguments(input_arguments(x), rounded.data_ptr(), token_scale.data_ptr())
    on.launch(round_name(name, kind_of(x)), (m, 1, 1), threads_per_token(k), _SHARED, arguments)
    sums = int8_matmul(rounded, codes.T)
    out = empty(m, n, dtype=values.dtype)
    after = ScaleArguments(sums.data_ptr(), token_scale.data_ptr(), scale.data_ptr(), n=n, out=out.data_ptr())
    after.bias = 0 if bias is None else bias.data_ptr()
    on.launch(scale_name(name), (-(-n // THREADS), m, 1), THREADS, 0, after)
    return out


@cache
def works(index: int) -> bool:
    """Whether the kernels before and after the product passed their self-test on GPU `index`."""
    fallback = "Torch's operations replace it, so INT8 is slower than it could be"
    return passes_self_test(_self_test, index, "A GPU kernel around torch's INT8 product", fallback)


def _self_test(place: str) -> bool:
    import torch

    random = torch.Generator().manual_seed(0)
    m, n, k = 3, 40, 1304
    x = torch.randn((m, k), generator=random)
    codes = torch.randint(-127, 128, (n, k), generator=random).to(torch.int8)
    scale, bias = torch.rand(n, generator=random), torch.randn(n, generator=random)
    token_scale = x.abs().amax(1, keepdim=True) / 127
    sums = torch.round(x / token_scale).double() @ codes.double().T  # exact
    expected = sums.float() * token_scale * scale + bias
    found = linear(x.to(place), codes.to(place), scale.to(place), bias.to(place))
    return bool(torch.equal(found.cpu(), expected))
