"""Inner loops of activation quantization, as Numba intrinsics.

A row's range, and its codes with their sum.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.vectors import (
    FLOATS,
    I8,
    I64,
    TARGET,
    VECTOR,
    Accumulators,
    bytes_of,
    call,
    constant,
    load,
    splat,
    store,
)

LANES = TARGET.lanes


@intrinsic
def range_of_vectors(typing: Any, x: Any, count: Any, ends: Any) -> Any:
    """Per-lane minimum and maximum of `count` float32 vectors of x.

    Compared as bit patterns in float order.

    ends: int32 (2 * LANES), each lane's minimum, then each lane's maximum; read and updated.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_at, ends_at = (bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 2))
        slots = [cgutils.alloca_once(builder, VECTOR) for _ in range(2)]
        places = [I64(0), I64(4 * LANES)]
        for slot, place in zip(slots, places, strict=True):
            builder.store(load(builder, ends_at, place), slot)
        with cgutils.for_range(builder, args[1]) as loop:
            bits = load(builder, x_at, builder.mul(loop.index, I64(4 * LANES)))
            flip = builder.and_(builder.ashr(bits, constant(31)), constant(0x7FFFFFFF))
            ordered = builder.xor(bits, flip)
            for slot, relation in zip(slots, ("<", ">"), strict=True):
                old = builder.load(slot)
                builder.store(builder.select(builder.icmp_signed(relation, ordered, old), ordered, old), slot)
        for slot, place in zip(slots, places, strict=True):
            store(builder, builder.load(slot), ends_at, place)
        return context.get_dummy_value()

    return types.void(x, types.intp, ends), generate


@intrinsic
def codes_of_vectors(
    typing: Any, x: Any, start: Any, count: Any, step: Any, offset: Any, levels: Any, shift: Any, out: Any, sums: Any
) -> Any:
    """out = clamp(rint(x / step) + offset, 0, levels) - shift, as int8.

    For `count` vectors from `start`.

    x: float32.  step, offset, levels: float32.  shift: int32.  sums: int32 (LANES); the codes are added to it.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_at, out_at, sums_at = (bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 7, 8))
        _, start, count, *scalars, shift, _, _ = args
        step, offset, levels = (_float_splat(builder, scalar) for scalar in scalars)
        shifts, zero = splat(builder, shift), ir.Constant(FLOATS, [0.0] * LANES)
        octets = ir.VectorType(I8, LANES)
        total = Accumulators(builder, 1)
        with cgutils.for_range(builder, count) as loop:
            column = builder.add(start, builder.mul(loop.index, I64(LANES)))
            value = load(builder, x_at, builder.shl(column, I64(2)), FLOATS)
            rounded = call(builder, f"llvm.rint.v{LANES}f32", FLOATS, [builder.fdiv(value, step)])
            code = builder.fadd(rounded, offset)
            code = builder.select(builder.fcmp_ordered(">", code, zero), code, zero)
            code = builder.select(builder.fcmp_ordered("<", code, levels), code, levels)
            number = builder.sub(builder.fptosi(code, VECTOR), shifts)
            total[0,] = builder.add(total[0,], number)
            store(builder, builder.trunc(number, octets), out_at, column, align=1)
        store(builder, builder.add(load(builder, sums_at, I64(0)), total[0,]), sums_at, I64(0))
        return context.get_dummy_value()

    i, f = types.intp, types.float32
    return types.void(x, i, i, f, f, f, types.int32, out, sums), generate


def _float_splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(FLOATS, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, ir.IntType(32)(0)), undefined, constant(0))
