"""Peak operations per second of a device: the compute roof of the benchmark's roofline.

"b1" and "int8" are the two instructions of our kernels, `mma.m16n8k256 .b1 .and.popc` and `mma.m16n8k32 .u8`, in a
loop without memory access (ceiling.cu). Libraries use faster instructions on some devices (`wgmma` on Hopper), so
"int8-library" and "fp16-library" are measured on a large square product of torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.cuda.compile import has_binary_mma
from kernels.cuda.launch import Launcher
from kernels.cuda.tiles import CEILINGS, THREADS

BITS, INT8 = CEILINGS
INT8_LIBRARY, FP16_LIBRARY = "int8-library", "fp16-library"
FRAGMENTS = 8  # kFragments of ceiling.cu
_COLUMNS = {BITS: 256, INT8: 32}  # length of the dot products of one instruction
_OUTPUTS = 16 * 8
_BLOCKS_PER_PROCESSOR = 2
_STEPS, _CHECKED_STEPS = 1 << 14, 2


class CeilingError(RuntimeError):
    """The tensor cores returned wrong products."""


class CeilingArguments(ctypes.Structure):
    """`CeilingArguments` of ceiling.cu."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("left", "right", "sums")),
        ("steps", ctypes.c_int32),
    )


class CeilingDevice(Launcher, Protocol):
    """A launcher that can time its kernels (`kernels.cuda.driver.CudaDevice`)."""

    place: str

    def seconds(self, run: Callable[[], Any]) -> float:
        """Seconds of one call of `run`, which launches without waiting."""

    def library_operations_per_second(self, dtype: str) -> float:
        """Operations per second of a large "float16" or "int8" product of torch."""


def measure_ceilings(on: CeilingDevice) -> dict[str, float]:
    """Peak operations per second by kind, without "b1" if the device lacks it.

    A multiply-add counts as two operations.

    Raises CeilingError if the results of a short loop are wrong.
    """
    import torch

    left, right = random_operands(0)
    registers = [torch.from_numpy(values.view(np.int32)).to(on.place) for values in (left, right)]
    blocks = _BLOCKS_PER_PROCESSOR * on.processors
    sums = torch.empty((blocks, THREADS, 4), dtype=torch.int32, device=on.place)

    def loop(kind: str, steps: int) -> None:
        arguments = CeilingArguments(*(tensor.data_ptr() for tensor in (*registers, sums)), steps)
        on.launch(CEILINGS[kind], (blocks, 1, 1), THREADS, 16, arguments)

    found = {}
    for kind in (BITS, INT8) if has_binary_mma(on.arch) else (INT8,):
        loop(kind, _CHECKED_STEPS)
        expected = expected_sums(kind, left, right, _CHECKED_STEPS)
        if not np.array_equal(sums.cpu().numpy().reshape(-1, 32, 4), np.broadcast_to(expected, (len(sums) * 8, 32, 4))):
            raise CeilingError(
                f"the {kind} products of {CEILINGS[kind]} are wrong: do not trust timings of this device"
            )
        count = operations(kind, blocks * THREADS // 32, _STEPS)
        found[kind] = count / on.seconds(lambda kind=kind: loop(kind, _STEPS))  # type: ignore[misc]
    found[INT8_LIBRARY] = on.library_operations_per_second("int8")
    found[FP16_LIBRARY] = on.library_operations_per_second("float16")
    return found


def operations(kind: str, warps: int, steps: int) -> int:
    """Operations of a launch: an instruction computes 16 x 8 dot products."""
    return 2 * _OUTPUTS * _COLUMNS[kind] * FRAGMENTS * steps * warps


def random_operands(seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Random registers of both operands: (4, 32) and (FRAGMENTS, 2, 32) uint32."""
    random = np.random.default_rng(seed)
    left, right = (random.integers(0, 1 << 32, shape, np.uint32) for shape in ((4, 32), (FRAGMENTS, 2, 32)))
    return left, right


def expected_sums(kind: str, left: NDArray[np.uint32], right: NDArray[np.uint32], steps: int) -> NDArray[np.int32]:
    """The expected output of each warp, (32 lanes, 4) int32, modulo 2^32.

    Lane 4 g + t holds a quarter of the columns of row g (registers 0, 2), of row g + 8 (1, 3) and of column g. The
    order of the columns does not matter, because both operands share it.
    """
    lanes = left.reshape(2, 2, 8, 4)  # half of the columns, half of the rows, g, t
    rows = _elements(kind, lanes.transpose(1, 2, 0, 3).reshape(16, 8))
    total = np.zeros((16, 8), np.int64)
    for fragment in right:
        total += rows @ _elements(kind, fragment.reshape(2, 8, 4).transpose(1, 0, 2).reshape(8, 8)).T
    by_lane = (total * steps).reshape(2, 8, 4, 2)  # half of the rows, g, t, column 2 t or 2 t + 1
    return by_lane.transpose(1, 2, 0, 3).reshape(32, 4).astype(np.uint64).astype(np.uint32).view(np.int32)


def _elements(kind: str, words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The bits or bytes of each row of words, as integers."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    return (np.unpackbits(octets, axis=1) if kind == BITS else octets).astype(np.int64)
