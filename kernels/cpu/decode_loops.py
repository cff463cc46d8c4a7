"""Inner loops for a few tokens, as Numba intrinsics: bytes x fields, planes x planes.

Offsets into weights are in 32-bit words, into int8 activations in bytes. `kernels.formats.weight` describes
the layouts.
"""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.vectors import (
    HAS_NARROW_DOT,
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
from kernels.formats.weight import FIELD_WIDTHS

MAX_TOKENS = 4  # tokens per read of the weights


@intrinsic
def dot_field(
    typing: Any, width: Any, tokens: Any, data: Any, start: Any, stride: Any, words: Any, x: Any, x_start: Any,
    x_stride: Any, totals: Any, shift: Any,
) -> Any:  # fmt: skip
    """The product of 1 to MAX_TOKENS tokens with one field of `decode_panels` panels.

    The field has 1, 2, 4 or 8 bits.

    totals[token, row] += (sum of x q) << shift.  data: `words` words from `start`, panels `stride` words apart, are
    multiplied by 4 * words * 8 / width int8 activations from x_start; the next token is x_stride bytes further.
    totals: int32 rows of 16 * decode_panels.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data_at, x_at, totals_at = (bytes_of(context, builder, signature.args[i], args[i]) for i in (2, 6, 9))
        width, tokens, _, start, stride, words, _, x_start, x_stride, _, shift = args
        for bits in FIELD_WIDTHS:
            with builder.if_then(builder.icmp_signed("==", width, I64(bits))):
                for count in range(1, MAX_TOKENS + 1):
                    with builder.if_then(builder.icmp_signed("==", tokens, I64(count))):
                        for first in range(0, count, _tokens_in_registers(bits)):
                            together = range(first, min(first + _tokens_in_registers(bits), count))
                            _dot_tokens(
                                builder, bits, together, data_at, start, stride, words, x_at, x_start, x_stride,
                                totals_at, shift,
                            )  # fmt: skip
        return context.get_dummy_value()

    i = types.intp
    return types.void(i, i, data, i, i, i, x, i, i, totals, types.int32), generate


def _are_shifted(width: int) -> bool:
    """Whether the positions of a field are shifted to the lowest bits: only the narrow dot product needs that."""
    return HAS_NARROW_DOT and width < 8


def _tokens_in_registers(width: int) -> int:
    """Number of tokens whose accumulators fit in registers together; at least one."""
    sums = 1 if _are_shifted(width) else 8 // width
    return max(1, TARGET.held_sums // (sums * TARGET.decode_panels * PER_PANEL))


def _dot_tokens(
    builder: Any, width: int, tokens: range, data_at: Any, start: Any, stride: Any, words: Any,
    x_at: Any, x_start: Any, x_stride: Any, totals_at: Any, shift: Any,
) -> None:  # fmt: skip
    """Read the weights once for these tokens.

    Positions are masked, not shifted: each has its own accumulator, which is shifted once at the end. Where they are
    shifted, they share one.
    """
    shifted, positions, vector_count = _are_shifted(width), 8 // width, TARGET.decode_panels * PER_PANEL
    sums = Accumulators(builder, len(tokens), vector_count, 1 if shifted else positions)
    rows = [builder.add(x_start, builder.mul(x_stride, I64(token))) for token in tokens]
    with cgutils.for_range(builder, words) as loop:
        word = builder.add(start, builder.mul(loop.index, I64(16)))
        vectors = vectors_of(builder, data_at, word, stride, TARGET.decode_panels, TARGET.prefetched_bytes)
        column = builder.mul(loop.index, I64(4 * positions))
        for j in range(positions):
            masked = [_position(builder, v, width, j, shifted) for v in vectors]
            for t, row in enumerate(rows):
                x_word = builder.add(builder.add(row, column), I64(4 * j))
                x_j = splat(builder, load(builder, x_at, x_word, I32))
                for v, vector in enumerate(masked):
                    slot = (t, v, 0 if shifted else j)
                    sums[slot] = dot(builder, sums[slot], vector, x_j, narrow=shifted)
    for t, token in enumerate(tokens):
        for v in range(vector_count):
            total = sums[t, v, 0]
            for j in range(1, 1 if shifted else positions):
                total = builder.add(total, builder.ashr(sums[t, v, j], constant(width * j)))
            add_to_totals(builder, totals_at, token * vector_count + v, total, shift)


def _position(builder: Any, vector: Any, width: int, j: int, shifted: bool) -> Any:
    """One position of a field in each byte, where it is or shifted to the lowest bits."""
    if width == 8:
        return vector
    if shifted:
        return builder.and_(builder.lshr(vector, constant(width * j)), constant(mask(width, 0)))
    return builder.and_(vector, constant(mask(width, j)))


def popcount_plane(act_planes: int) -> Callable[..., None]:
    """The product of one weight plane with `act_planes` planes of one token.

    The weight plane spans `decode_panels` panels; the token's planes are consecutive.

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
            vector_count = TARGET.decode_panels * PER_PANEL
            sums = Accumulators(builder, vector_count, act_planes)
            with cgutils.for_range(builder, words) as loop:
                word = builder.add(start, builder.mul(loop.index, I64(16)))
                vectors = vectors_of(builder, data_at, word, stride, TARGET.decode_panels, TARGET.prefetched_bytes)
                for i in range(act_planes):
                    x_word = builder.add(builder.add(x_start, loop.index), builder.mul(x_stride, I64(i)))
                    x_i = splat(builder, load(builder, x_at, builder.shl(x_word, I64(2)), I32))
                    for v, vector in enumerate(vectors):
                        common = builder.and_(vector, x_i)
                        count = call(builder, f"llvm.ctpop.v{TARGET.lanes}i32", VECTOR, [common])
                        sums[v, i] = builder.add(sums[v, i], count)
            for v in range(vector_count):
                total = sums[v, 0]
                for i in range(1, act_planes):
                    total = builder.add(total, builder.shl(sums[v, i], constant(i)))
                add_to_totals(builder, totals_at, v, total, shift)
            return context.get_dummy_value()

        i = types.intp
        return types.void(data, i, i, i, x, i, i, totals, types.int32), generate

    return plane
