"""The emulator itself.

It rejects undefined behaviour, has PTX's fragment layouts, and detects mutated kernels.
"""

import ctypes
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_cases import Case, assert_exact
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedDevice, EmulatorError, build, run

from kernels.cuda.compile import SOURCES, Unit, unit_of
from kernels.cuda.plan import Plan
from kernels.cuda.tiles import BINARY, BYTES, Instance

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)

MUTATIONS = {
    "weight words of two rows exchanged": (
        "binary_p2_r1_c1",
        "binary.cu",
        "mma_b1(acc[row][column][j], w[d][row][j], b[d][column]);",
        "mma_b1(acc[row][column][j], uint4{w[d][row][j].y, w[d][row][j].x, w[d][row][j].z, w[d][row][j].w}, "
        "b[d][column]);",
    ),
    "planes weighted in the wrong order": ("binary_p2_r1_c1", "binary.cu", "[e] << j;", "[e] << (j ^ 1);"),
    "wrong shuffle partner": ("binary_p2_r1_c1", "binary.cu", "shuffle_xor(sum, 2)", "shuffle_xor(sum, 4)"),
    "registers of a byte fragment exchanged": (
        "bytes_p2_r1_c1",
        "bytes.cu",
        "bytes[row][1][r], bytes[row][0][r + 1]",
        "bytes[row][0][r + 1], bytes[row][1][r]",
    ),
    "the bank swizzle on one side only": (
        "bytes_p2_r1_c1",
        "bytes.cu",
        "((lane % 4 * 2 + half) ^ (token & 1))",
        "(lane % 4 * 2 + half)",
    ),
    "one pipeline stage not waited for": (
        "bytes_p2_r1_c1",
        "bytes.cu",
        "wait_copies<kStages - 2>",
        "wait_copies<kStages - 1>",
    ),
    "no barrier before the reduction over warps": (
        "binary_p2_r1_c1",
        "binary.cu",
        "token0 = tokens_of(column0);\n        sync_block();",
        "token0 = tokens_of(column0);",
    ),
    "no wait for the quantizing launch": ("binary_p2_r1_c1", "binary.cu", "    wait_for_previous();\n", ""),
    "read-only loads of what that launch writes": (
        "binary_p2_r1_c1",
        "epilogue.cuh",
        "load<float>(Global<const float>(a.act_scale)",
        "load_constant<float>(Global<const float>(a.act_scale)",
    ),
    "prefetch past the end of the weight": (
        "binary_p2_r1_c1",
        "epilogue.cuh",
        "bytes < a.prefetch_bytes ? bytes : a.prefetch_bytes",
        "a.prefetch_bytes",
    ),
    "rows past the end not masked": ("binary_p2_r1_c1", "epilogue.cuh", "|| row >= a.n) return;", ") return;"),
    "wrong position of a plane in the tile": (
        "quantize_float32",
        "quantize.cu",
        "(column_in_tile + r) * 4 + t",
        "(column_in_tile + t) * 4 + r",
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutated_kernel_is_detected(mutation: str, tmp_path: Path) -> None:
    kernel, file, before, after = MUTATIONS[mutation]
    for source in SOURCES.glob("*.cu*"):
        shutil.copy(source, tmp_path)
    text = (tmp_path / file).read_text()
    assert before in text
    (tmp_path / file).write_text(text.replace(before, after))
    family = BYTES if kernel.startswith(BYTES) else BINARY
    device = EmulatedDevice(sources=tmp_path)
    with pytest.raises((AssertionError, EmulatorError)):
        assert_exact(Case(2, 8, 3, 20, 700), device, Plan(Instance(family, 2, 1, 1, False), 2, 1, 1))


FAULTS = {
    "beyond_the_end": "is outside its buffer of 256 bytes",
    "before_the_start": "element -1 of 4 bytes is outside",
    "out_of_alignment": "out of alignment",
    "beyond_shared": "of 1024 of shared memory",
    "no_barrier": "a race in shared memory",
    "write_after_read": "a write where others read",
    "not_all_at_the_barrier": "not all threads of the block reach",
    "half_a_warp": "warp 0 is divergent",
    "different_collectives": "different collectives",
    "copy_not_waited_for": "before a copy to it was waited for",
    "copy_without_barrier": "no barrier after a write",
    "not_waited_for": "before earlier launches are waited for",
    "changed_before": "a read-only load of a buffer that an earlier launch has written",
    "prefetch_beyond_the_end": "element 0 of 512 bytes is outside its buffer of 256 bytes",
    "stale_load": "a load of a buffer that this launch has written",
}


class FaultArguments(ctypes.Structure):
    _fields_ = (("data", ctypes.c_uint64), ("count", ctypes.c_int32))


class QuotientArguments(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_uint64) for name in ("values", "divisors", "quotients")), ("count", ctypes.c_int32))


def test_quotients_are_correctly_rounded() -> None:
    """Quotients close to the midpoint of two codes, where one bit decides, and random ones; divisors of all sizes."""
    library = build(Unit("quotients", "quotients.cu", ("KERNEL(divide_all, QuotientArguments, 1024, (divide_all))",)))
    random = np.random.default_rng(0)
    count = 400_000
    divisors = np.concatenate(
        [
            random.uniform(1, 2, count).astype(np.float32)
            * np.exp2(random.integers(-20, 20, count)).astype(np.float32),
            np.exp(random.uniform(-88, 88.7, count)).astype(np.float32),
            np.nextafter(np.exp2(random.integers(-9, 9, count)).astype(np.float32), np.float32(0)),
        ]
    )
    halves = (random.integers(-300, 300, len(divisors)) + 0.5).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        near_midpoint = (halves * divisors).view(np.int32) + random.integers(-2, 3, len(divisors)).astype(np.int32)
        anywhere = (random.standard_normal(len(divisors)) * 100).astype(np.float32) * divisors
    values = np.where(random.random(len(divisors)) < 0.7, near_midpoint.view(np.float32), anywhere).astype(np.float32)
    usable = np.isfinite(values) & (divisors > 0)
    values, divisors = values[usable], divisors[usable]
    quotients = np.empty_like(values)
    library.emulator_forget_buffers()
    for tensor in (values, divisors, quotients):
        library.emulator_add_buffer(tensor.ctypes.data, tensor.nbytes, 0)
    places = (tensor.ctypes.data for tensor in (values, divisors, quotients))
    assert run(library, "divide_all", (1, 1, 1), 1024, 1024, QuotientArguments(*places, len(values))) == ""
    with np.errstate(over="ignore", under="ignore"):
        expected = values / divisors
    codes = np.abs(expected) < 1e5  # the range that matters for codes
    assert codes.mean() > 0.9
    assert np.array_equal(np.rint(quotients[codes]), np.rint(expected[codes]))
    normal = codes & (np.abs(values) > 1e-15)
    assert np.array_equal(quotients[normal], expected[normal])


def run_fault(name: str) -> tuple[str, torch.Tensor]:
    unit = Unit(
        "faults",
        "faults.cu",
        tuple(
            f"KERNEL(run_{fault}, FaultArguments, 256, ({fault if fault == 'not_waited_for' else f'waited<{fault}>'}))"
            for fault in ("right", *FAULTS)
        ),
    )
    library = build(unit)
    data = torch.zeros(64, dtype=torch.int32)
    library.emulator_forget_buffers()
    library.emulator_add_buffer(data.data_ptr(), data.nbytes, name == "changed_before")
    return run(library, f"run_{name}", (1, 1, 1), 64, 1024, FaultArguments(data.data_ptr(), 64)), data


@pytest.mark.parametrize("fault", FAULTS)
def test_undefined_behaviour_is_rejected(fault: str) -> None:
    message, _ = run_fault(fault)
    assert FAULTS[fault] in message


def test_a_correct_kernel_runs() -> None:
    message, data = run_fault("right")
    assert message == ""
    assert data.tolist() == list(reversed(range(64)))


# Matrix, (rows, columns), elements per lane, and entries of the PTX ISA's figures: (lane, element) -> (row, column).
TABLES = [
    (0, (16, 256), 128, {(0, 0): (0, 0), (5, 33): (9, 33), (5, 64): (1, 160), (31, 127): (15, 255), (4, 31): (1, 31)}),
    (1, (256, 8), 64, {(0, 0): (0, 0), (5, 0): (32, 1), (5, 32): (160, 1), (31, 63): (255, 7)}),
    (2, (16, 128), 64, {(0, 0): (0, 0), (6, 32): (9, 64), (31, 63): (15, 127)}),
    (3, (128, 8), 32, {(0, 0): (0, 0), (9, 3): (35, 2), (31, 31): (127, 7)}),
    (4, (16, 32), 16, {(0, 0): (0, 0), (0, 4): (8, 0), (0, 8): (0, 16), (1, 13): (8, 21), (31, 15): (15, 31)}),
    (5, (32, 8), 8, {(0, 0): (0, 0), (1, 4): (20, 0), (31, 7): (31, 7)}),
    (6, (16, 8), 4, {(0, 0): (0, 0), (0, 1): (0, 1), (0, 2): (8, 0), (7, 3): (9, 7), (31, 3): (15, 7)}),
]


@pytest.mark.parametrize(("matrix", "shape", "elements", "known"), TABLES)
def test_fragment_tables(
    matrix: int, shape: tuple[int, int], elements: int, known: dict[tuple[int, int], tuple[int, int]]
) -> None:
    library = build(unit_of("quantize_float32"))
    row, column = ctypes.c_int(), ctypes.c_int()
    places = {}
    for lane in range(32):
        for i in range(elements):
            library.emulator_position(matrix, lane, i, ctypes.byref(row), ctypes.byref(column))
            places[lane, i] = (row.value, column.value)
    assert len(set(places.values())) == len(places) == math.prod(shape)
    assert max(places.values()) == (shape[0] - 1, shape[1] - 1)
    assert {entry: places[entry] for entry in known} == known


def test_conversions_round_as_the_gpu_does() -> None:
    library = build(unit_of("quantize_float32"))
    random = np.random.default_rng(0)
    bits = np.concatenate([random.integers(0, 2**32, 3000, dtype=np.uint32), np.arange(0x33000000, 0x33000000 + 50, 1)])
    edges = [0.0, -0.0, 65504.0, 65519.9, 65520.0, 65536.0, 6e-8, 2.9e-8, 3e-8, 6.1e-5, 6.0975e-5, 1.0009765, np.inf]
    values = np.concatenate([bits.astype(np.uint32).view(np.float32), np.array(edges, np.float32)])
    values = np.concatenate([values, -values, random.standard_normal(3000, np.float32)])
    values = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    assert [library.emulator_to_half(float(v)) for v in values] == halves.view(np.uint16).tolist()
    bfloats = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert [library.emulator_to_bfloat(float(v)) for v in values] == bfloats.tolist()
    assert [library.emulator_from_half(int(h)) for h in halves.view(np.uint16)] == halves.astype(np.float32).tolist()


def test_only_one_header_uses_intrinsics_and_ptx() -> None:
    for path in SOURCES.glob("*.cu*"):
        text = path.read_text()
        if path.name != "device.cuh":
            assert "asm" not in text and "__" not in text.replace("#pragma once", ""), path.name
