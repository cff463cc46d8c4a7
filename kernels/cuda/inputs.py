"""What a product on the GPU reads of a token: its values as they are, gated, or the norm of a residual stream."""

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
    """silu(gate) * up of gate_up (m, 2 k), gate first, each row contiguous."""

    gate_up: Tensor

    @property
    def values(self) -> Tensor:
        """What the input is made from."""
        return self.gate_up

    @property
    def shape(self) -> tuple[int, int]:
        """(m, k)."""
        return len(self.gate_up), self.gate_up.shape[1] // 2


@dataclass(frozen=True, eq=False)
class Normed:
    """RMSNorm of x (m, k) + added (m, k), or of x alone. Whatever reads it replaces x by that sum, so only once.

    norm: (k,), the norm's weight.  All are of one dtype, x's rows and `added` contiguous.
    """

    x: Tensor
    added: Tensor | None
    norm: Tensor
    epsilon: float

    @property
    def values(self) -> Tensor:
        """What the input is made from."""
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
    """PLAIN, GATED or NORMED."""
    return GATED if isinstance(x, Gated) else NORMED if isinstance(x, Normed) else PLAIN


def values_of(x: Input) -> Tensor:
    """The tensor whose dtype and device the input has."""
    return x.values if isinstance(x, Gated | Normed) else x


def input_arguments(x: Input) -> InputArguments:
    """As the kernels read it. Raises ShapeError where tensors do not fit each other."""
    values = values_of(x)
    if values.ndim != 2 or (values.stride(1) != 1 and values.shape[1] > 1):
        raise ShapeError(f"activations {tuple(values.shape)} with strides {values.stride()} are no rows of values")
    m, k = x.shape
    arguments = InputArguments(x=values.data_ptr(), stride=values.stride(0), m=m, k=k)
    beside: list[Tensor] = []
    if isinstance(x, Gated) and values.shape[1] != 2 * k:
        raise ShapeError(f"gate and up {tuple(values.shape)} are not two of one width")
    if isinstance(x, Normed):
        beside = [x.norm] if x.added is None else [x.norm, x.added]
        shapes = [(k,), (m, k)]
        for tensor, shape in zip(beside, shapes, strict=False):
            if tuple(tensor.shape) != shape or tensor.dtype != values.dtype or not tensor.is_contiguous():
                raise ShapeError(f"{tuple(tensor.shape)} {tensor.dtype} does not go with {(m, k)} {values.dtype}")
        arguments.norm, arguments.epsilon = x.norm.data_ptr(), x.epsilon
        arguments.added = 0 if x.added is None else x.added.data_ptr()
    four = 4 * values.element_size()
    arguments.vector = (
        all(tensor.data_ptr() % four == 0 for tensor in (values, *beside))
        and (values.stride(0) % 4 == 0 or m == 1)
        and (k % 4 == 0 or not (beside or isinstance(x, Gated)))
    )
    return arguments


def type_number(dtype: torch.dtype) -> int:
    """ElementType of arguments.cuh. Raises ShapeError for any but float32, float16, bfloat16."""
    name = str(dtype).removeprefix("torch.")
    if name not in TYPES:
        raise ShapeError(f"the GPU kernels read and write {', '.join(TYPES)}, not {name}")
    return TYPES.index(name)


def type_name(dtype: torch.dtype) -> str:
    """The dtype's name in those of kernels. Raises ShapeError."""
    return TYPES[type_number(dtype)]
