"""A decode step's operations as a program that runs in compiled code, without Python between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.paths import DEQUANTIZED, PANEL_STEP, WORTH_A_THREAD
from kernels.cpu.token import rows
from kernels.cpu.token.rows import (
    ADDED,
    ATTENDED,
    BUFFERS,
    COS,
    GATE_UP,
    GATED,
    NORMED,
    QKV,
    SIN,
    Table,
    X,
    float_layer,
)
from kernels.dispatch import NUMPY, path_for
from kernels.formats.activations import not_finite
from kernels.formats.weight import PackedWeight
from kernels.hadamard import inverse_root
from kernels.host.threads import run_ranges, thread_count

__all__ = [
    "ADDED",
    "ATTENDED",
    "COS",
    "GATED",
    "GATE_UP",
    "NORMED",
    "QKV",
    "SIN",
    "Memory",
    "Operation",
    "Program",
    "X",
    "buffer_sizes",
    "float_layer",
    "is_runnable",
]

_ALIGNMENT = 64  # bytes


def is_runnable(weight: PackedWeight, act_bits: int) -> bool:
    """Whether a program can multiply this weight: its path passed the self-test on this machine."""
    return path_for(weight, 1, act_bits) != NUMPY


@dataclass(frozen=True)
class Operation:
    """One row of a program.

    buffers: values that it needs in each buffer.  holds: what its addresses point into.  large: worth several threads.
    """

    row: Table
    buffers: Mapping[int, int]
    holds: object = None
    large: bool = False

    @classmethod
    def norm(cls, weight: NDArray[np.float32], epsilon: float, has_added: bool) -> "Operation":
        """NORMED = RMS norm of X, after X += ADDED if `has_added`."""
        row = rows.norm_row(weight, epsilon, has_added)
        return cls(row, dict.fromkeys((X, ADDED, NORMED), weight.size), weight)

    @classmethod
    def product(cls, weight: PackedWeight, act_bits: int, source: int, target: int, start: int) -> "Operation":
        """target[start : start + n] = source times a packed weight (n, k), for which `is_runnable` holds."""
        name = path_for(weight, 1, act_bits)
        path = rows.BIT_PLANES if name.endswith("bitserial") else rows.DOT
        path = rows.WEIGHT_ONLY if name == DEQUANTIZED else path
        root = inverse_root(weight.hadamard)
        row = rows.product_row(weight, act_bits, path, root, source, target, start)
        buffers = {source: weight.k_padded, target: start + weight.n}
        return cls(row, buffers, weight, weight.n * weight.k >= WORTH_A_THREAD)

    @classmethod
    def attend(cls, layer: int, heads: int, kv_heads: int, d: int, scaling: float) -> "Operation":
        """Rotate QKV, append its keys and values to a layer of the cache. ATTENDED = attention of its queries."""
        row = rows.attend_row(layer, heads, kv_heads, d, scaling)
        return cls(row, {QKV: (heads + 2 * kv_heads) * d, ATTENDED: heads * d, COS: d, SIN: d})

    @classmethod
    def gate(cls, size: int) -> "Operation":
        """GATED = silu(gate) * up of the two halves of GATE_UP."""
        return cls(rows.gate_row(size), {GATE_UP: 2 * size, GATED: size})


def buffer_sizes(operations: Sequence[Operation]) -> list[int]:
    """Values that the operations need in each buffer."""
    return [max(one.buffers.get(buffer, 0) for one in operations) for buffer in range(BUFFERS)]


class Memory:
    """What one text needs: buffers, with `values` by number, and the layers of its KV cache.

    sizes: of the buffers.  layers: (layers, LAYER_SIZE); the cache that they point into must live as long.
    """

    def __init__(self, sizes: Sequence[int], layers: Table) -> None:
        step = _ALIGNMENT // 4
        starts = np.cumsum([0, *(-(-size // step) * step for size in sizes)])
        whole = np.zeros(starts[-1] + step, np.float32)
        whole = whole[-whole.ctypes.data // 4 % step :]
        self.values = [whole[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        self.addresses = whole.ctypes.data + 4 * starts[:-1].astype(np.int64)
        self.layers = layers


class Program:
    """Operations in order. Neighbours that are worth only one thread run in one call."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations  # keeps their arrays alive
        self._parts = [
            (large, np.stack([one.row for one in part]))
            for large, group in groupby(operations, lambda one: one.large)
            for part in (([one] for one in group) if large else [list(group)])
        ]

    def run(self, memory: Memory, position: int) -> None:
        """Run all operations for the token at `position`. Raises NotFiniteError."""
        for large, table in self._parts:
            if large:
                self._multiply(table[0], memory)
            elif (done := _compiled().run(table, memory.addresses, memory.layers, position)) < len(table):
                raise _not_finite(table[done], memory)

    def _multiply(self, row: Table, memory: Memory) -> None:
        finite = []

        def run(first: int, last: int) -> None:
            finite.append(_compiled().multiply(row, memory.addresses, first, last))

        run_ranges(run, int(row[rows.PANELS]), PANEL_STEP, thread_count())
        if not all(finite):
            raise _not_finite(row, memory)


def _not_finite(row: Table, memory: Memory) -> Exception:
    values = memory.values[row[rows.INPUT]][: row[rows.INPUT_SIZE]]
    return not_finite(values[None], 0)


@cache
def _compiled() -> ModuleType:
    """The compiled functions, imported on first use: importing Numba takes a second."""
    from kernels.cpu.token import program

    return program
