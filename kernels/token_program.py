"""A decode step's operations as a program that runs in compiled code, without Python between them."""

import math
from collections.abc import Callable, Mapping, Sequence
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
    GELU,
    GELU_TANH,
    NORMED,
    QKV,
    RELU,
    SILU,
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
    "GELU",
    "GELU_TANH",
    "NORMED",
    "QKV",
    "RELU",
    "SILU",
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
    per_position: multiplications for each cached position that attention sees.
    """

    row: Table
    buffers: Mapping[int, int]
    holds: object = None
    large: bool = False
    per_position: int = 0

    @classmethod
    def norm(
        cls,
        weight: NDArray[np.float32],
        epsilon: float,
        has_added: bool,
        bias: NDArray[np.float32] | None = None,
        in_place: int | None = None,
    ) -> "Operation":
        """NORMED = norm of X, after X += ADDED if `has_added`.

        bias: of a layer norm; None for an RMS norm.  in_place: the buffer that is normalized instead.
        """
        source, target = (X, NORMED) if in_place is None else (in_place, in_place)
        row = rows.norm_row(weight, bias, epsilon, has_added, source, target, 0, 1)
        return cls(row, dict.fromkeys((source, ADDED, target), weight.size), (weight, bias))

    @classmethod
    def norm_heads(
        cls, weight: NDArray[np.float32], epsilon: float, bias: NDArray[np.float32] | None, first: int, count: int
    ) -> "Operation":
        """Normalize `count` heads of QKV from number `first`, in place. weight, bias: (d,), as for `norm`."""
        row = rows.norm_row(weight, bias, epsilon, False, QKV, QKV, first * weight.size, count)
        return cls(row, {QKV: (first + count) * weight.size}, (weight, bias))

    @classmethod
    def add(cls, size: int) -> "Operation":
        """X += ADDED."""
        return cls(rows.add_row(size), dict.fromkeys((X, ADDED), size))

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
    def regroup(cls, heads: int, kv_heads: int, d: int) -> "Operation":
        """Bring QKV from the order of kv heads (each with its queries, key and value) to queries, keys, values."""
        return cls(rows.regroup_row(heads, kv_heads, d), {QKV: (heads + 2 * kv_heads) * d})

    @classmethod
    def attend(
        cls,
        layer: int,
        heads: int,
        kv_heads: int,
        d: int,
        scaling: float,
        rotated: int | None = None,
        rope: int = 0,
        softcap: float = 0.0,
    ) -> "Operation":
        """Rotate QKV, append its keys and values to a layer of the cache. ATTENDED = attention of its queries.

        rotated: channels of each head that are rotated, None for all; COS and SIN hold as many for each rotary
        embedding.  rope: the number of the rotary embedding.  softcap: bound of the scores (Gemma 2), 0 for none.
        """
        rotated = d if rotated is None else rotated
        row = rows.attend_row(layer, heads, kv_heads, d, scaling, rotated, rope, softcap)
        angles = (rope + 1) * rotated
        return cls(
            row,
            {QKV: (heads + 2 * kv_heads) * d, ATTENDED: heads * d, COS: angles, SIN: angles},
            per_position=2 * heads * d,
        )

    @classmethod
    def gate(cls, size: int, activation: int = SILU, has_up: bool = True) -> "Operation":
        """GATED = activation(gate) * up of the two halves of GATE_UP; without `has_up`, the activation of all of it."""
        row = rows.gate_row(size, activation, has_up)
        return cls(row, {GATE_UP: 2 * size if has_up else size, GATED: size})


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
        self._segments = _segments(operations, lambda one: one.large)
        self._segments_of_long_text = _segments(operations, lambda one: one.large or one.per_position > 0)
        most = max((one.per_position for one in operations), default=0)
        self._long = -(-WORTH_A_THREAD // most) if most else math.inf

    def run(self, memory: Memory, position: int) -> None:
        """Run all operations for the token at `position`. Raises NotFiniteError."""
        for alone, table in self._segments if position < self._long else self._segments_of_long_text:
            row = table[0]
            if alone and row[rows.OPERATION] == rows.PRODUCT:
                self._multiply(row, memory)
            elif alone and _products(row, memory, position) >= WORTH_A_THREAD:
                self._attend(row, memory, position)
            elif (done := _compiled().run(table, memory.addresses, memory.layers, position)) < len(table):
                raise _not_finite(table[done], memory)

    def _multiply(self, row: Table, memory: Memory) -> None:
        finite = []

        def run(first: int, last: int) -> None:
            finite.append(_compiled().multiply(row, memory.addresses, first, last))

        run_ranges(run, int(row[rows.PANELS]), PANEL_STEP, thread_count())
        if not all(finite):
            raise _not_finite(row, memory)

    def _attend(self, row: Table, memory: Memory, position: int) -> None:
        """Attention by several threads, each for some of the heads."""
        compiled, layer = _compiled(), memory.layers[row[rows.LAYER]]
        if not compiled.append(row, memory.addresses, layer, position):
            raise _not_finite(row, memory)

        def run(first: int, last: int) -> None:
            compiled.attend(row, memory.addresses, layer, position, (first, last))

        run_ranges(run, int(row[rows.HEADS]), 1, thread_count())


def _segments(operations: Sequence[Operation], is_alone: Callable[[Operation], bool]) -> list[tuple[bool, Table]]:
    """Tables of operations, and whether one is alone, because it may be worth several threads."""
    return [
        (alone, np.stack([one.row for one in part]))
        for alone, group in groupby(operations, is_alone)
        for part in (([one] for one in group) if alone else [list(group)])
    ]


def _products(row: Table, memory: Memory, position: int) -> int:
    """Multiplications of attention over the positions that the token sees."""
    window = int(memory.layers[row[rows.LAYER], rows.WINDOW]) or position + 1
    return 2 * int(row[rows.OUTPUT_SIZE]) * min(window, position + 1)


def _not_finite(row: Table, memory: Memory) -> Exception:
    values = memory.values[row[rows.INPUT]][: row[rows.INPUT_SIZE]]
    return not_finite(values[None], 0)


@cache
def _compiled() -> ModuleType:
    """The compiled functions, imported on first use: importing Numba takes a second."""
    from kernels.cpu.token import program

    return program
