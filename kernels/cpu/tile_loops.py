"""Inner loops for many tokens, as Numba intrinsics: unpacking and product tiles.

Tiles are int8 or float32.

Offsets into weights are in 32-bit words, into int8 activations in bytes. `kernels.formats.weight` describes
the layouts.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.vectors import (
    FLOATS,
    HAS_NARROW_DOT,
    I16,
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
    prefetch,
    splat,
    store,
    vectors_of,
)

TILE_TOKENS = TARGET.tile_tokens
FLOAT_TILE_TOKENS = 4


def unpack_field(width: int, add: bool = False) -> Callable[..., None]:
    """One field of one panel as bytes in the order of an 8-bit field.

    Intrinsic (data, start, words, out, out_start, shift): out = field, or out |= field << shift if `add`.
    """
    positions = 8 // width

    @intrinsic
    def field(
        typing: Any,
        data: Any,
        start: Any,
        words: Any,
        out: Any,
        out_start: Any,
        shift: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data_at, out_at = (bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 3))
            _, start, words, _, out_start, shift = args
            shifts = splat(builder, shift)
            with cgutils.for_range(builder, words) as loop:
                word = builder.add(start, builder.mul(loop.index, I64(16)))
                out_word = builder.add(out_start, builder.mul(loop.index, I64(16 * positions)))
                for part, vector in enumerate(vectors_of(builder, data_at, word, I64(0), 1)):
                    for j in range(positions):
                        offset = builder.shl(builder.add(out_word, I64(16 * j + part * TARGET.lanes)), I64(2))
                        value = builder.and_(builder.lshr(vector, constant(width * j)), constant(mask(width, 0)))
                        if add:
                            value = builder.or_(load(builder, out_at, offset), builder.shl(value, shifts))
                        store(builder, value, out_at, offset)
            return context.get_dummy_value()

        i = types.intp
        return types.void(data, i, i, out, i, types.int32), generate

    return field


def dot_tile(tokens: int) -> Callable[..., None]:
    """`tokens` of a tile's TILE_TOKENS tokens times `tile_panels` panels of 8-bit weights.

    Intrinsic (w, start, stride, words, x, x_start, totals, totals_start, shift, narrow, data, ahead, ahead_stride,
    ahead_step): totals[token, row] += (sum of x w) << shift.  w: words of four columns from start, panels `stride`
    words apart.  x: words of four columns from word x_start, with TILE_TOKENS tokens interleaved.  totals: int32 from
    totals_start, rows of 16 * tile_panels.  narrow: no byte of w exceeds 127.  Meanwhile the loop prefetches data from
    word `ahead`: for each panel (ahead_stride words apart), ahead_step words per word of w. Otherwise memory would be
    idle during the multiplication.
    """

    @intrinsic
    def tile(
        typing: Any,
        w: Any,
        start: Any,
        stride: Any,
        words: Any,
        x: Any,
        x_start: Any,
        totals: Any,
        totals_start: Any,
        shift: Any,
        narrow: Any,
        data: Any,
        ahead: Any,
        ahead_stride: Any,
        ahead_step: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bases = [bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 4, 6, 10)]
            if HAS_NARROW_DOT:
                with builder.if_else(args[9]) as (narrow_bytes, all_bytes):
                    with narrow_bytes:
                        _multiply_tile(builder, tokens, bases, args, narrow=True)
                    with all_bytes:
                        _multiply_tile(builder, tokens, bases, args, narrow=False)
            else:
                _multiply_tile(builder, tokens, bases, args, narrow=False)
            return context.get_dummy_value()

        i = types.intp
        return types.void(w, i, i, i, x, i, totals, i, types.int32, types.boolean, data, i, i, i), generate

    return tile


def _multiply_tile(builder: Any, tokens: int, bases: list[Any], args: Any, narrow: bool) -> None:
    """The loop of `dot_tile`. bases: addresses of w, x, totals and data.  args: those of the intrinsic."""
    w_at, x_at, totals_at, data_at = bases
    _, start, stride, words, _, x_start, _, totals_start, shift, _, _, ahead, ahead_stride, ahead_step = args
    vectors_per_token = TARGET.tile_panels * PER_PANEL
    sums = Accumulators(builder, tokens, vectors_per_token)
    with cgutils.for_range(builder, words) as loop:
        word = builder.add(start, builder.mul(loop.index, I64(16)))
        vectors = vectors_of(builder, w_at, word, stride, TARGET.tile_panels)
        later = builder.add(ahead, builder.mul(loop.index, ahead_step))
        for panel in range(TARGET.tile_panels):
            prefetch(builder, data_at, builder.add(later, builder.mul(ahead_stride, I64(panel))))
        x_word = builder.add(x_start, builder.mul(loop.index, I64(TILE_TOKENS)))
        for token in range(tokens):
            offset = builder.shl(builder.add(x_word, I64(token)), I64(2))
            x_token = splat(builder, load(builder, x_at, offset, I32))
            for v, vector in enumerate(vectors):
                sums[token, v] = dot(builder, sums[token, v], vector, x_token, narrow)
    totals_at = builder.gep(totals_at, [builder.shl(totals_start, I64(2))])
    for token in range(tokens):
        for v in range(vectors_per_token):
            add_to_totals(builder, totals_at, token * vectors_per_token + v, sums[token, v], shift)


@intrinsic
def finish_panel(
    typing: Any, totals: Any, totals_start: Any, spacing: Any, zero: Any, sums: Any, scale: Any, side: Any,
    act_sum: Any, act_zero: Any, y: Any, y_start: Any,
) -> Any:  # fmt: skip
    """Add float32(d total - zero act_sum - act_zero sum) * scale to y, for 16 rows of a panel.

    totals, y: from totals_start, y_start.  d: spacing, int32.  zero (int16), sums, scale: from `side`.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bases = {i: bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 3, 4, 5, 9)}
        _, totals_start, spacing, _, _, _, side, act_sum, act_zero, _, y_start = args
        shorts = ir.VectorType(I16, TARGET.lanes)

        def words(base: int, start: Any, part: int) -> tuple[Any, Any]:
            return bases[base], builder.shl(builder.add(start, I64(part * TARGET.lanes)), I64(2))

        for part in range(PER_PANEL):
            zero_offset = builder.shl(builder.add(side, I64(part * TARGET.lanes)), I64(1))
            zeros = builder.sext(load(builder, bases[3], zero_offset, shorts, align=2), VECTOR)
            total = builder.mul(load(builder, *words(0, totals_start, part)), splat(builder, spacing))
            total = builder.sub(total, builder.mul(zeros, splat(builder, act_sum)))
            centred = load(builder, *words(4, side, part))
            total = builder.sub(total, builder.mul(centred, splat(builder, act_zero)))
            scaled = builder.fmul(builder.sitofp(total, FLOATS), load(builder, *words(5, side, part), FLOATS))
            y_at = words(9, y_start, part)
            store(builder, builder.fadd(load(builder, *y_at, FLOATS), scaled), *y_at)
        return context.get_dummy_value()

    i, j = types.intp, types.int32
    return types.void(totals, i, j, zero, sums, scale, i, j, j, y, i), generate


def float_tile(tokens: int) -> Callable[..., None]:
    """`tokens` float32 tokens times `decode_panels` panels of 8-bit codes, in float32.

    Intrinsic (w, stride, words, x, x_start, x_stride, zero, shift, scale, y, y_start): y[token, row] += scale[row]
    times the sum of x ((code << shift) - zero[row]).  w: words of four codes from 0, panels `stride` words apart.
    x: rows x_stride values apart.  zero (int32), scale: one per row.  y: from y_start, rows of 16 * decode_panels.
    """

    @intrinsic
    def tile(
        typing: Any,
        w: Any,
        stride: Any,
        words: Any,
        x: Any,
        x_start: Any,
        x_stride: Any,
        zero: Any,
        shift: Any,
        scale: Any,
        y: Any,
        y_start: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            w_at, x_at, zero_at, scale_at, totals_at = (
                bytes_of(context, builder, signature.args[i], args[i]) for i in (0, 3, 6, 8, 9)
            )
            _, stride, words, _, x_start, x_stride, _, shift, _, _, y_start = args
            count = TARGET.decode_panels * PER_PANEL
            zeros = [load(builder, zero_at, I64(4 * TARGET.lanes * v)) for v in range(count)]
            shifts = splat(builder, shift)
            totals = Accumulators(builder, tokens, count, kind=FLOATS)
            with cgutils.for_range(builder, words) as loop:
                word = builder.mul(loop.index, I64(16))
                vectors = vectors_of(builder, w_at, word, stride, TARGET.decode_panels)
                column = builder.add(x_start, builder.shl(loop.index, I64(2)))
                for c in range(4):
                    values = []
                    for vector, zero_vector in zip(vectors, zeros, strict=True):
                        code = builder.and_(builder.lshr(vector, constant(8 * c)), constant(255))
                        centred = builder.sub(builder.shl(code, shifts), zero_vector)
                        values.append(builder.sitofp(centred, FLOATS))
                    for t in range(tokens):
                        place = builder.add(builder.add(column, I64(c)), builder.mul(x_stride, I64(t)))
                        x_word = splat(builder, load(builder, x_at, builder.shl(place, I64(2)), I32))
                        x_float = builder.bitcast(x_word, FLOATS)
                        for v, value in enumerate(values):
                            arguments = [value, x_float, totals[t, v]]
                            totals[t, v] = call(builder, f"llvm.fmuladd.v{TARGET.lanes}f32", FLOATS, arguments)
            y_at = builder.gep(totals_at, [builder.shl(y_start, I64(2))])
            for v in range(count):
                scales = load(builder, scale_at, I64(4 * TARGET.lanes * v), FLOATS)
                for t in range(tokens):
                    offset = I64(4 * TARGET.lanes * (t * count + v))
                    scaled = builder.fmul(totals[t, v], scales)
                    store(builder, builder.fadd(load(builder, y_at, offset, FLOATS), scaled), y_at, offset)
            return context.get_dummy_value()

        i = types.intp
        return types.void(w, i, i, x, i, i, zero, types.int32, scale, y, i), generate

    return tile
