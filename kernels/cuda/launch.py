"""Kernel launches: argument structures (arguments.cuh), grids, the two steps of a product.

Nothing here allocates (except torch's own workspace for cuBLASLt), so a CUDA graph can hold a product. Kernels run on a
`Launcher`: the CUDA driver (`kernels.cuda.driver`), or the emulator in tests.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Protocol

from kernels.cuda.device_tensors import DeviceWeight, Int8Workspace, QuantizedActivations, padded_tokens, plane_columns
from kernels.cuda.fragments import CHUNK
from kernels.cuda.inputs import (
    Gated,
    InputArguments,
    Normed,
    input_arguments,
    kind_of,
    type_name,
    type_number,
    values_of,
)
from kernels.cuda.plan import Plan, unit_of
from kernels.cuda.private_apis import int8_matmul
from kernels.cuda.tiles import (
    BINARY,
    DEQUANTIZE,
    FINISH_TOTALS,
    LIBRARY,
    LOOK_UP,
    THREADS,
    TOKEN_ROWS,
    TOKEN_THREADS,
    WEIGHT_ROWS,
    materialize_name,
    quantize_name,
)
from kernels.formats.planes import ShapeError
from kernels.hadamard import inverse_root

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.cuda.inputs import Input

_QUANTIZE_SHARED = 384  # bytes of shared memory before the group sums in quantize.cu
_MATERIALIZE_SHARED = 128
_PREFETCH_BYTES = 8192  # of weight per warp, read during the previous launch: roughly the bandwidth of that time
_pointer, _int = ctypes.c_uint64, ctypes.c_int32


class QuantizeArguments(ctypes.Structure):
    """`QuantizeArguments` of arguments.cuh."""

    _fields_ = (
        ("input", InputArguments),
        *((name, _pointer) for name in ("planes", "codes", "scale", "zero", "sums", "counters")),
        *((name, _int) for name in ("chunks", "bits", "columns_log", "group", "groups", "counter_count")),
        ("hadamard", _int),
        *((name, ctypes.c_float) for name in ("clip", "shrinking")),
    )


class MaterializeArguments(ctypes.Structure):
    """`MaterializeArguments` of arguments.cuh."""

    _fields_ = (("input", InputArguments), ("out", _pointer))


class ProductArguments(ctypes.Structure):
    """`ProductArguments` of arguments.cuh."""

    _fields_ = (
        *((name, _pointer) for name in ("weight", "acts", "act_scale", "act_zero", "act_sums")),
        *((name, _pointer) for name in ("scale", "zero", "sums", "bias", "out", "partial", "counters", "totals")),
        *((name, _int) for name in ("type", "m", "n", "tiles", "chunks", "columns_log", "group", "groups", "steps")),
        *((name, _int) for name in ("unit", "share", "extra", "warps_n", "prefetch_bytes", "spacing")),
    )


class DequantizeArguments(ctypes.Structure):
    """`DequantizeArguments` of arguments.cuh."""

    _fields_ = (
        *((name, _pointer) for name in ("weight", "scale", "zero", "out")),
        *((name, _int) for name in ("type", "n", "k", "tiles", "chunks", "planes", "group", "spacing")),
    )


class LookUpArguments(ctypes.Structure):
    """`LookUpArguments` of arguments.cuh."""

    _fields_ = (
        *((name, _pointer) for name in ("weight", "scale", "zero", "ids", "out")),
        *((name, _int) for name in ("type", "n", "k", "tiles", "chunks", "planes", "group", "spacing")),
    )


class RowsArguments(ctypes.Structure):
    """`RowsArguments` of signed.cu."""

    _fields_ = (
        *((name, _pointer) for name in ("weight", "codes", "out")),
        *((name, _int) for name in ("chunks", "planes", "count", "k", "shift")),
    )


class TotalsArguments(ctypes.Structure):
    """`TotalsArguments` of signed.cu."""

    _fields_ = (
        ("product", ProductArguments),
        ("sums", _pointer),
        *((name, _int) for name in ("k", "act_shift", "weight_shift")),
    )


class Launcher(Protocol):
    """Launches kernels by name on the current stream."""

    arch: str
    processors: int
    overlaps: bool  # whether a kernel may start before the previous one ends (programmatic dependent launch)

    def launch(
        self, kernel: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, arguments: ctypes.Structure
    ) -> None:
        """Launch `kernel` without waiting for it."""


def quantize(launcher: Launcher, x: Input, weight: DeviceWeight, to: QuantizedActivations) -> None:
    """Quantize x (m, k), float32, float16 or bfloat16, per token into `to`.

    Rows may be strided, columns may not.
    Raises ShapeError.
    """
    if tuple(x.shape) != (to.m, weight.k):
        raise ShapeError(f"activations {tuple(x.shape)} do not fit ({to.m}, {weight.k})")
    arguments = QuantizeArguments(
        input=input_arguments(x),
        planes=to.codes.data_ptr() if to.family == BINARY else 0,
        codes=0 if to.family == BINARY else to.codes.data_ptr(),
        scale=to.scale.data_ptr(),
        zero=to.zero.data_ptr(),
        sums=to.sums.data_ptr(),
        counters=to.counters.data_ptr(),
        chunks=weight.chunks,
        bits=to.act_bits,
        columns_log=plane_columns(to.act_bits).bit_length() - 1,
        group=weight.segment if weight.grouped else weight.chunks * 256,
        groups=weight.groups,
        counter_count=to.counters.numel(),
        hadamard=weight.hadamard,
        clip=weight.act_clip,
        shrinking=inverse_root(weight.hadamard),
    )
    tokens = padded_tokens(to.m, to.family, to.act_bits)
    threads = threads_per_token(weight.k)
    shared = _QUANTIZE_SHARED + -(-weight.groups // 4) * 16
    name = quantize_name(type_name(values_of(x).dtype), kind_of(x))
    launcher.launch(name, (tokens, 1, 1), threads, shared, arguments)


def materialize(launcher: Launcher, x: Gated | Normed, out: Tensor) -> None:
    """Write the values of a fused input to `out`, (m, k) of x's dtype. Raises ShapeError."""
    m, k = x.shape
    arguments = MaterializeArguments(input_arguments(x), out.data_ptr())
    arguments.input.vector &= out.data_ptr() % (4 * out.element_size()) == 0
    threads = threads_per_token(k)
    blocks = 1 if isinstance(x, Normed) else -(-k // (4 * threads))
    name = materialize_name(type_name(x.values.dtype), kind_of(x))
    launcher.launch(name, (blocks, m, 1), threads, _MATERIALIZE_SHARED, arguments)


def multiply(
    launcher: Launcher,
    plan: Plan,
    acts: QuantizedActivations,
    weight: DeviceWeight,
    out: Tensor,
    partial: Tensor | None,
    totals: Tensor | None = None,
) -> None:
    """Multiply, scale, and write to out (m, n).

    partial: `partial_words` words of 32 bits, needed if the plan splits K.
    totals: (m, n, groups) int32, receives the exact sums of (qa - za)(spacing qw - zw) if given.
    """
    arguments = _product_arguments(acts, weight, out, totals)
    arguments.unit, units = unit_of(weight, plan.instance.family)
    arguments.share, arguments.extra = divmod(units, plan.workers)
    arguments.prefetch_bytes = _PREFETCH_BYTES // plan.instance.rows if launcher.overlaps else 0
    arguments.warps_n = plan.warps_n
    arguments.partial = 0 if partial is None else partial.data_ptr()
    grid = plan.grid(weight, acts.m, acts.act_bits)
    launcher.launch(plan.instance.name, grid, 32 * plan.warps, plan.shared_bytes(acts.act_bits), arguments)


def _product_arguments(
    acts: QuantizedActivations, weight: DeviceWeight, out: Tensor, totals: Tensor | None
) -> ProductArguments:
    return ProductArguments(
        weight=weight.data.data_ptr(),
        acts=acts.codes.data_ptr(),
        act_scale=acts.scale.data_ptr(),
        act_zero=acts.zero.data_ptr(),
        act_sums=acts.sums.data_ptr(),
        scale=weight.scale.data_ptr(),
        zero=weight.zero.data_ptr(),
        sums=weight.sums.data_ptr(),
        bias=0 if weight.bias is None else weight.bias.data_ptr(),
        out=out.data_ptr(),
        counters=acts.counters.data_ptr(),
        totals=0 if totals is None else totals.data_ptr(),
        type=type_number(out.dtype),
        m=acts.m,
        n=weight.n,
        tiles=weight.tiles,
        chunks=weight.chunks,
        columns_log=plane_columns(acts.act_bits).bit_length() - 1,
        group=weight.segment,
        groups=weight.groups,
        steps=weight.steps,
        spacing=weight.spacing,
    )


def multiply_by_library(
    launcher: Launcher,
    acts: QuantizedActivations,
    weight: DeviceWeight,
    out: Tensor,
    workspace: Int8Workspace,
    totals: Tensor | None = None,
) -> None:
    """Like `multiply`, through torch's INT8 product (cuBLASLt). acts: of the BYTES family.

    For weights of at most 8 planes with one scale per row.
    """
    act_shift, weight_shift = 128 if acts.act_bits == 8 else 0, 128 if weight.planes == 8 else 0
    rows = RowsArguments(out=workspace.weight.data_ptr(), weight=weight.data.data_ptr(), shift=weight_shift)
    rows.chunks, rows.planes, rows.count, rows.k = weight.chunks, weight.planes, weight.n, weight.k
    warps = THREADS // 32
    launcher.launch(WEIGHT_ROWS, (-(-weight.chunks // warps), weight.tiles, 1), THREADS, 16, rows)
    tokens = RowsArguments(out=workspace.acts.data_ptr(), codes=acts.codes.data_ptr(), shift=act_shift)
    tokens.chunks, tokens.count, tokens.k = weight.chunks, acts.m, weight.k
    launcher.launch(TOKEN_ROWS, (len(workspace.acts), 1, 1), THREADS, 16, tokens)
    int8_matmul(workspace.acts, workspace.weight.T, out=workspace.sums)
    finish = TotalsArguments(_product_arguments(acts, weight, out, totals), workspace.sums.data_ptr(), weight.k)
    finish.act_shift, finish.weight_shift = act_shift, weight_shift
    launcher.launch(FINISH_TOTALS, (-(-weight.n // THREADS), acts.m, 1), THREADS, 16, finish)


def dequantize(launcher: Launcher, weight: DeviceWeight, out: Tensor) -> None:
    """Write (spacing code - zero) * scale to out (n, k), float32, float16 or bfloat16."""
    arguments = DequantizeArguments(**_unpacking(weight, out))
    grid = (-(-weight.chunks // (THREADS // 32)), weight.tiles, 1)
    launcher.launch(DEQUANTIZE, grid, THREADS, 16, arguments)


def look_up(launcher: Launcher, weight: DeviceWeight, ids: Tensor, out: Tensor) -> None:
    """Write the dequantized rows `ids` (m,) int64, contiguous, to out (m, k), float32, float16 or bfloat16; m > 0."""
    arguments = LookUpArguments(ids=ids.data_ptr(), **_unpacking(weight, out))
    launcher.launch(LOOK_UP, (len(ids), -(-weight.chunks // (THREADS // 32)), 1), THREADS, 16, arguments)


def _unpacking(weight: DeviceWeight, out: Tensor) -> dict[str, int]:
    """The arguments of a kernel that writes dequantized values of a weight to `out`."""
    return {
        "weight": weight.data.data_ptr(),
        "scale": weight.scale.data_ptr(),
        "zero": weight.zero.data_ptr(),
        "out": out.data_ptr(),
        "type": type_number(out.dtype),
        "n": weight.n,
        "k": weight.k,
        "tiles": weight.tiles,
        "chunks": weight.chunks,
        "planes": weight.planes,
        "group": weight.segment,
        "spacing": weight.spacing,
    }


def output_tiles(plan: Plan, weight: DeviceWeight, m: int, act_bits: int) -> int:
    """Number of counters that a plan needs: one per output tile."""
    if plan.instance.family == LIBRARY:
        return 1
    wide, tall, _ = plan.grid(weight, m, act_bits)
    return wide * tall


def partial_words(plan: Plan, weight: DeviceWeight, m: int) -> int:
    """Size of the buffer of partial sums of a plan that splits K, in words of 32 bits."""
    return 0 if plan.splits == 1 else plan.splits * m * weight.tiles * 16


def threads_per_token(k: int) -> int:
    """Threads per token: one warp per 256 columns.

    All kernels that compute a norm use this number, so that they sum in the same order.
    """
    return min(TOKEN_THREADS, 32 * -(-k // CHUNK))
