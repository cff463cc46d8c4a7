"""Arrays in compiled code from the addresses that a table of int64 holds, as Numba intrinsics.

A call from Python takes a microsecond for every few arrays that it passes; a table of addresses is one array.
"""

from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from kernels.cpu.arguments import Array
from kernels.cpu.compile import inlined


@intrinsic
def _pointer(typing: Any, address: Any, dtype: Any) -> Any:
    """An address as a pointer to values of a type, which `numba.carray` accepts."""
    kind = types.CPointer(dtype.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, dtype), generate


@inlined
def array_at(address: int, dtype: type, size: int) -> Array:
    """The `size` values at an address. Nothing keeps their memory alive."""
    return carray(_pointer(address, dtype), size)


@inlined
def float_of(bits: int) -> np.float32:
    """The float32 whose bits are the low half of an int64."""
    return np.int32(bits).view(np.float32)
