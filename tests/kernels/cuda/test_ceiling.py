"""The ceiling kernels on the emulator: they write the products of their operands."""

import ctypes

import numpy as np
import pytest
import torch
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedDevice, EmulatedGpu, EmulatorError

from kernels.cuda import ceiling
from kernels.cuda.ceiling import BITS, FRAGMENTS, INT8, CeilingArguments, CeilingError, expected_sums, measure_ceilings
from kernels.cuda.tiles import CEILINGS

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)


def run(kind: str, steps: int, threads: int = 64, missing: int = 0, backwards: bool = False) -> torch.Tensor:
    """The sums (2 blocks, threads, 4) of random operands.

    missing: elements by which the output is too small.
    """
    operands = [torch.from_numpy(values.view(np.int32)) for values in ceiling.random_operands(steps)]
    out = torch.full((2 * threads * 4 - missing,), -1, dtype=torch.int32)
    device = EmulatedDevice(backwards=backwards)
    device.show(*operands, out)
    arguments = CeilingArguments(*(tensor.data_ptr() for tensor in (*operands, out)), steps)
    device.launch(CEILINGS[kind], (2, 1, 1), threads, 16, arguments)
    return out.reshape(2, threads, 4)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", [BITS, INT8])
def test_sums_are_the_products(kind: str, steps: int, backwards: bool) -> None:
    sums = run(kind, steps, backwards=backwards)
    expected = expected_sums(kind, *ceiling.random_operands(steps), steps)
    assert np.array_equal(sums.numpy().reshape(4, 32, 4), np.broadcast_to(expected, (4, 32, 4)))
    assert bool(sums.any()) == (steps > 0)


@pytest.mark.parametrize("kind", [BITS, INT8])
def test_expected_sums_of_all_ones(kind: str) -> None:
    left, right = np.full((4, 32), 0xFFFFFFFF, np.uint32), np.full((FRAGMENTS, 2, 32), 0xFFFFFFFF, np.uint32)
    each = {BITS: 256, INT8: 32 * 255 * 255}[kind]
    assert (expected_sums(kind, left, right, 3) == 3 * FRAGMENTS * each).all()
    many = 3000
    wrapped = (many * FRAGMENTS * each + 2**31) % 2**32 - 2**31  # int32 overflow
    assert (expected_sums(kind, left, right, many) == wrapped).all()


def test_an_output_that_is_too_small_is_detected() -> None:
    with pytest.raises(EmulatorError, match="is outside its buffer"):
        run(BITS, 1, missing=1)


def test_operations_are_counted_by_instruction() -> None:
    assert ceiling.operations(BITS, 1, 1) == FRAGMENTS * 2 * 16 * 8 * 256
    assert ceiling.operations(INT8, 3, 7) == 21 * FRAGMENTS * 2 * 16 * 8 * 32


def test_both_are_measured_on_every_processor() -> None:
    gpu = EmulatedGpu()
    gpu.processors = 1
    found = measure_ceilings(gpu)
    assert gpu.launched == [CEILINGS[BITS], CEILINGS[INT8]]  # the checks; the emulator's timer launches nothing
    warps, steps = 2 * 8, 1 << 14
    assert found == {
        BITS: ceiling.operations(BITS, warps, steps) / 2.0,
        INT8: ceiling.operations(INT8, warps, steps) / 3.0,
        "int8-library": 2e12,
        "fp16-library": 1e12,
    }


def test_without_binary_products_there_is_no_binary_ceiling() -> None:
    gpu = EmulatedGpu("100a")
    gpu.processors = 1
    assert set(measure_ceilings(gpu)) == {INT8, "int8-library", "fp16-library"}
    assert gpu.launched == [CEILINGS[INT8]]


def test_wrong_sums_stop_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = EmulatedGpu()
    gpu.processors = 1
    right = gpu.launch

    def one_step_less(kernel: str, grid: object, threads: int, shared: int, arguments: ctypes.Structure) -> None:
        arguments.steps -= 1  # type: ignore[attr-defined]
        right(kernel, grid, threads, shared, arguments)

    monkeypatch.setattr(gpu, "launch", one_step_less)
    with pytest.raises(CeilingError, match="the b1 products of ceiling_b1 are wrong"):
        measure_ceilings(gpu)
