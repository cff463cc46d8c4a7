"""The inputs of a GPU product: plain activations, or a fused gate (SwiGLU) or RMSNorm."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from kernels.cuda.tiles import GATED, NORMED, PLAIN, TYPES
from kernels.formats.planes import ShapeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gated:
    """The input silu(gate) * up, from gate_up (m, 2 k) with the gate first and contiguous rows."""

    gate_up: Tensor

    @property
    def values(self) -> Tensor:
        """The tensor that the input is computed from."""
        return self.gate_up

    @property
    def shape(self) -> tuple[int, int]:
        """(m, k)."""
        return len(self.gate_up), self.gate_up.shape[1] // 2


@dataclass(frozen=True, eq=False)
class Normed:
    """The input RMSNorm(x + added), or RMSNorm(x) if `added` is None.

    x, added: (m, k), the residual stream and what is added to it; rows of x and `added` are contiguous.
    norm: (k,), the RMSNorm weight.  All tensors have one dtype.
    Reading the input overwrites x with x + added, so it may be read only once.
    """

    x: Tensor
    added: Tensor | None
    norm: Tensor
    epsilon: float

    @property
    def values(self) -> Tensor:
        """The tensor that the input is computed from."""
        return self.x

    @property
    def shape(self) -> tuple[int, int]:
        """(m, k)."""
        return len(self.x), self.x.shape[1]


Input: TypeAlias = "Tensor | Gated | Normed"


class InputArguments(ctypes.Structure):
    """`InputArguments` of arguments.cuh."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("x", "added", "norm")),
        ("stride", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("vector", "m", "k")),
        ("epsilon", ctypes.c_float),
    )


def kind_of(x: Input) -> str:
    """The kind of an input: PLAIN, GATED or NORMED."""
    return GATED if isinstance(x, Gated) else NORMED if isinstance(x, Normed) else PLAIN


def values_of(x: Input) -> Tensor:
    """The tensor that determines the input's dtype and device."""
    return x.values if isinstance(x, Gated | Normed) else x


def input_arguments(x: Input) -> InputArguments:
    """Kernel arguments for an input. Raises ShapeError if its tensors do not fit together."""
    values = values_of(x)
    if values.ndim != 2 or (values.stride(1) != 1 and values.shape[1] > 1):
        raise ShapeError(f"activations {tuple(values.shape)} with strides {values.stride()}: rows must be contiguous")
    m, k = x.shape
    arguments = InputArguments(x=values.data_ptr(), stride=values.stride(0), m=m, k=k)
    others: list[Tensor] = []
    if isinstance(x, Gated) and values.shape[1] != 2 * k:
        raise ShapeError(f"gate_up {tuple(values.shape)} has an odd number of columns; it needs the gate and up halves")
    if isinstance(x, Normed):
        others = [x.norm] if x.added is None else [x.norm, x.added]
        shapes = [(k,), (m, k)]
        for tensor, shape in zip(others, shapes, strict=False):
            if tuple(tensor.shape) != shape or tensor.dtype != values.dtype or not tensor.is_contiguous():
                raise ShapeError(
                    f"a {tensor.dtype} tensor {tuple(tensor.shape)} does not fit activations {(m, k)} of {values.dtype}"
                )
        arguments.norm, arguments.epsilon = x.norm.data_ptr(), x.epsilon
        arguments.added = 0 if x.added is None else x.added.data_ptr()
    four = 4 * values.element_size()
    arguments.vector = (
        all(tensor.data_ptr() % four == 0 for tensor in (values, *others))
        and (values.stride(0) % 4 == 0 or m == 1)
        and (k % 4 == 0 or not (others or isinstance(x, Gated)))
    )
    return arguments


def type_number(dtype: torch.dtype) -> int:
    """The ElementType of arguments.cuh.

    Raises ShapeError for dtypes other than float32, float16 and bfloat16.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in TYPES:
        raise ShapeError(f"the GPU kernels read and write {', '.join(TYPES)}, not {name}")
    return TYPES.index(name)


def type_name(dtype: torch.dtype) -> str:
    """The dtype as it appears in kernel names. Raises ShapeError."""
    return TYPES[type_number(dtype)]
