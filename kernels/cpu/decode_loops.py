"""The inner loops of one token's product, as Numba intrinsics: bytes against fields, planes against planes.

Offsets into weights are in 32-bit words, into int8 activations in bytes. The layouts are described in `kernels.weight`.
"""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.vectors import (
    I32,
    I64,
    PER_PANEL,
    TARGET,
    VECTOR,
    Accumulators,
    add_to_totals,
    bytes_of,
    call,
    constant,
    dot,
    load,
    mask,
    splat,
    vectors_of,
)

_AHEAD = 2048


def dot_field(width: int) -> Callable[..., None]:
    """The product of one token with one field of `width` bits of `decode_panels` panels.

    Intrinsic (data, start, stride, words, x, x_start, totals, shift): totals[row] += (sum of x q) << shift, where
    `words` words of data from `start` face 4 * words * 8 / width int8 activations from x_start. A position is masked,
    not shifted: it has an accumulator of its own, which is shifted once at the end.
    """
    positions, panels = 8 // width, TARGET.decode_panels

    @intrinsic
    def field(
        typing: Any,
        data: Any,
        start: Any,
        stride: Any,
        words: Any,
        x: Any,
        x_start: Any,
        totals: Any,
        shift: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data_at, x_at, totals_at = (bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 4, 6))
            _, start, stride, words, _, x_start, _, shift = args
            sums = Accumulators(builder, panels * PER_PANEL, positions)
            with cgutils.for_range(builder, words) as loop:
                word = builder.add(start, builder.mul(loop.index, I64(16)))
                vectors = vectors_of(builder, data_at, word, stride, panels, _AHEAD)
                x_word = builder.add(x_start, builder.mul(loop.index, I64(4 * positions)))
                for j in range(positions):
                    x_j = splat(builder, load(builder, x_at, builder.add(x_word, I64(4 * j)), I32))
                    for v, vector in enumerate(vectors):
                        masked = vector if width == 8 else builder.and_(vector, constant(mask(width, j)))
                        sums[v, j] = dot(builder, sums[v, j], masked, x_j)
            for v in range(panels * PER_PANEL):
                total = sums[v, 0]
                for j in range(1, positions):
                    total = builder.add(total, builder.ashr(sums[v, j], constant(width * j)))
                add_to_totals(builder, totals_at, v, total, shift)
            return context.get_dummy_value()

        i = types.intp
        return types.void(data, i, i, i, x, i, totals, types.int32), generate

    return field


def popcount_plane(act_planes: int) -> Callable[..., None]:
    """The product of one weight plane of `decode_panels` panels with `act_planes` neighbouring planes of one token.

    Intrinsic (data, start, stride, words, x, x_start, x_stride, totals, shift): totals[row] += sum over i of
    popcount(weight & activation_i) << (shift + i).  data, x: 32-bit words of 32 columns; `words` of them from start and
    x_start, activation planes x_stride words apart.
    """

    @intrinsic
    def plane(
        typing: Any, data: Any, start: Any, stride: Any, words: Any, x: Any, x_start: Any, x_stride: Any,
        totals: Any, shift: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data_at, x_at, totals_at = (bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 4, 7))
            _, start, stride, words, _, x_start, x_stride, _, shift = args
            vectors_in_all = TARGET.decode_panels * PER_PANEL
            sums = Accumulators(builder, vectors_in_all, act_planes)
            with cgutils.for_range(builder, words) as loop:
                word = builder.add(start, builder.mul(loop.index, I64(16)))
                vectors = vectors_of(builder, data_at, word, stride, TARGET.decode_panels, _AHEAD)
                for i in range(act_planes):
                    x_word = builder.add(builder.add(x_start, loop.index), builder.mul(x_stride, I64(i)))
                    x_i = splat(builder, load(builder, x_at, builder.shl(x_word, I64(2)), I32))
                    for v, vector in enumerate(vectors):
                        common = builder.and_(vector, x_i)
                        count = call(builder, f"llvm.ctpop.v{TARGET.lanes}i32", VECTOR, [common])
                        sums[v, i] = builder.add(sums[v, i], count)
            for v in range(vectors_in_all):
                total = sums[v, 0]
                for i in range(1, act_planes):
                    total = builder.add(total, builder.shl(sums[v, i], constant(i)))
                add_to_totals(builder, totals_at, v, total, shift)
            return context.get_dummy_value()

        i = types.intp
        return types.void(data, i, i, i, x, i, i, totals, types.int32), generate

    return plane
