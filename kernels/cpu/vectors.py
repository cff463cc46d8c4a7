"""LLVM IR for vectors of int32, from which the loop modules are built.

Used by `decode_loops`, `tile_loops` and `quantize_loops`.

Numba's auto-vectorization of these loops is 3 to 4 times slower, so they use explicit instructions, which `target()`
chooses: AVX-512 VNNI, AVX2, or generic LLVM vectors, which run on any processor.
"""

from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from kernels.host.processor import target

TARGET = target()

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
VECTOR = ir.VectorType(I32, TARGET.lanes)
FLOATS = ir.VectorType(ir.FloatType(), TARGET.lanes)
_HALVES = ir.VectorType(I16, 2 * TARGET.lanes)
_BYTES = ir.VectorType(I8, 4 * TARGET.lanes)
PER_PANEL = 16 // TARGET.lanes
# AVX2 multiplies unsigned by signed bytes too, and adds pairs as int16: exact if the unsigned bytes are below 128.
HAS_NARROW_DOT = TARGET.name == "avx2" and not TARGET.has_dot
_TO_L1, _TO_L2 = 3, 2


def constant(value: int, vector: Any = VECTOR) -> Any:
    """A vector constant with `value` in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def splat(builder: Any, scalar: Any) -> Any:
    """A vector with the 32-bit `scalar` in every lane."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, I32(0)), undefined, constant(0))


def bytes_of(context: Any, builder: Any, array_type: Any, value: Any) -> Any:
    """Pointer to an array's first byte."""
    return builder.bitcast(cgutils.create_struct_proxy(array_type)(context, builder, value=value).data, I8.as_pointer())


def load(builder: Any, base: Any, offset: Any, kind: Any = VECTOR, align: int = 4) -> Any:
    """Load a vector of type `kind` from `base` plus `offset` bytes."""
    return builder.load(builder.bitcast(builder.gep(base, [offset]), kind.as_pointer()), align=align)


def store(builder: Any, vector: Any, base: Any, offset: Any, align: int = 4) -> None:
    """Store a vector at `base` plus `offset` bytes."""
    builder.store(vector, builder.bitcast(builder.gep(base, [offset]), vector.type.as_pointer()), align=align)


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call the LLVM function `name`, declaring it on first use."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def dot(builder: Any, total: Any, w: Any, x: Any, narrow: bool = False) -> Any:
    """Per lane: total + the four products of bytes of w and x, without saturation.

    The bytes of w are unsigned, those of x signed.  narrow: no byte of w exceeds 127.
    """
    if TARGET.has_dot:
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{32 * TARGET.lanes}", VECTOR, [total, w, x])
    if HAS_NARROW_DOT and narrow:
        bytes_ = [builder.bitcast(one, _BYTES) for one in (w, x)]
        pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", _HALVES, bytes_)
        return builder.add(total, call(builder, "llvm.x86.avx2.pmadd.wd", VECTOR, [pairs, constant(1, _HALVES)]))
    w, x = builder.bitcast(w, _HALVES), builder.bitcast(x, _HALVES)
    eight = constant(8, _HALVES)
    pairs = (
        (builder.and_(w, constant(255, _HALVES)), builder.ashr(builder.shl(x, eight), eight)),
        (builder.lshr(w, eight), builder.ashr(x, eight)),
    )
    for unsigned, signed in pairs:
        if TARGET.name == "avx2":
            pair_sum = call(builder, "llvm.x86.avx2.pmadd.wd", VECTOR, [unsigned, signed])
        else:
            pair_sum = _sum_of_pairs(builder, unsigned, signed)
        total = builder.add(total, pair_sum)
    return total


def _sum_of_pairs(builder: Any, unsigned: Any, signed: Any) -> Any:
    """u0 s0 + u1 s1 for each lane's two halves, u below 256 and s signed."""
    sixteen = constant(16)
    u, s = builder.bitcast(unsigned, VECTOR), builder.bitcast(signed, VECTOR)
    low = builder.mul(builder.and_(u, constant(0xFFFF)), builder.ashr(builder.shl(s, sixteen), sixteen))
    return builder.add(low, builder.mul(builder.lshr(u, sixteen), builder.ashr(s, sixteen)))


class Accumulators:
    """A grid of accumulator vectors that start at zero. LLVM promotes them to registers."""

    def __init__(self, builder: Any, *shape: int, kind: Any = VECTOR) -> None:
        self.builder = builder
        self.slots = {index: cgutils.alloca_once(builder, kind) for index in product(*map(range, shape))}
        for slot in self.slots.values():
            builder.store(ir.Constant(kind, [0] * TARGET.lanes), slot)

    def __getitem__(self, index: tuple[int, ...]) -> Any:
        return self.builder.load(self.slots[index])

    def __setitem__(self, index: tuple[int, ...], value: Any) -> None:
        self.builder.store(value, self.slots[index])


def mask(width: int, position: int) -> int:
    """Mask of one position in each of a word's four bytes."""
    byte = ((1 << width) - 1) << (width * position)
    word = byte * 0x01010101
    return word - (1 << 32) if word >> 31 else word


def prefetch(builder: Any, base: Any, word: Any) -> None:
    """Prefetch the cache line of a 32-bit word into L2."""
    _prefetch(builder, base, builder.shl(word, I64(2)), _TO_L2)


def _prefetch(builder: Any, base: Any, offset: Any, locality: int) -> None:
    later = builder.gep(base, [offset])
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [later, I32(0), I32(locality), I32(1)])


def vectors_of(builder: Any, base: Any, word: Any, stride: Any, panels: int, ahead: int = 0) -> list[Any]:
    """Load one 32-bit word of every row of `panels` panels, lanes in row order.

    The panels are `stride` words apart.

    ahead: prefetch distance in bytes, 0 for none. Where the hardware prefetcher restarts at each panel, it alone is too
    late.
    """
    vectors = []
    for panel in range(panels):
        start = builder.shl(builder.add(word, builder.mul(stride, I64(panel))), I64(2))
        if ahead:
            _prefetch(builder, base, builder.add(start, I64(ahead)), _TO_L1)
        for part in range(PER_PANEL):
            vectors.append(load(builder, base, builder.add(start, I64(part * 4 * TARGET.lanes))))
    return vectors


def add_to_totals(builder: Any, totals: Any, index: int, vector: Any, shift: Any) -> None:
    """Add `vector << shift` to the running total number `index`."""
    offset = I64(index * 4 * TARGET.lanes)
    shifted = builder.shl(vector, splat(builder, shift))
    store(builder, builder.add(load(builder, totals, offset), shifted), totals, offset)
