"""The Hadamard transform of float32 rows: first within vectors, then between vectors.

See `kernels.hadamard`.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.vectors import FLOATS, I64, TARGET, VECTOR, bytes_of, load, store

LANES = TARGET.lanes


@compiled
def transform(x: Array, block: int, factor: np.float32, out: Array, first: int, last: int) -> None:
    """out = H x * factor for every block of columns in rows first .. last - 1.

    x, out: (rows, k) float32.
    """
    for row in range(first, last):
        source, target = x[row], out[row]
        if block < LANES:
            target[:] = source
        else:
            mix_lanes(source, target, source.size // LANES)
        for start in range(0, source.size, block):
            _add_pairs(target[start : start + block], 1 if block < LANES else LANES)
        for i in range(source.size):
            target[i] *= factor


@compiled
def _add_pairs(values: Array, distance: int) -> None:
    """Butterflies in place: sums and differences of values `distance` apart.

    Then 2 * distance, up to half the size.
    """
    while distance < values.size:
        for start in range(0, values.size, 2 * distance):
            firsts, seconds = values[start : start + distance], values[start + distance : start + 2 * distance]
            for i in range(distance):
                first, second = firsts[i], seconds[i]
                firsts[i], seconds[i] = first + second, first - second
        distance *= 2


@intrinsic
def mix_lanes(typing: Any, source: Any, target: Any, count: Any) -> Any:
    """target = H x for each of `count` float32 vectors of source.

    Butterflies of lanes 1, 2, 4, ... apart.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source_at, target_at = (bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 1))
        with cgutils.for_range(builder, args[2]) as loop:
            place = builder.mul(loop.index, I64(4 * LANES))
            value = load(builder, source_at, place, FLOATS)
            distance = 1
            while distance < LANES:
                lanes = range(LANES)
                partners = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [lane ^ distance for lane in lanes])
                signs = ir.Constant(VECTOR, [(lane & distance) // distance * -(2**31) for lane in lanes])
                other = builder.shuffle_vector(value, value, partners)
                signed = builder.bitcast(builder.xor(builder.bitcast(value, VECTOR), signs), FLOATS)
                value = builder.fadd(other, signed)  # the lower lane of a pair gets the sum, the upper the difference
                distance *= 2
            store(builder, value, target_at, place)
        return context.get_dummy_value()

    return types.void(source, target, types.intp), generate
