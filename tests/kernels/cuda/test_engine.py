"""The GPU engine's choice of kernels, self-tests and errors, on the emulator."""

import numpy as np
import pytest
import torch
from cuda_cases import Case, Expected
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu

from kernels import dispatch
from kernels.cuda import driver, engine
from kernels.cuda.compile import ArchitectureError
from kernels.cuda.device_tensors import upload
from kernels.cuda.driver import CudaError
from kernels.cuda.tiles import BINARY, BYTES, LIBRARY
from kernels.formats.planes import ShapeError

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)


def test_dispatch_returns_the_reference(gpu: EmulatedGpu) -> None:
    case = Case(2, 8, 3, 40, 300, dtype=torch.float16)
    packed, x = case.weight(), case.tokens()
    weight = upload(packed, "cpu")
    expected = Expected.of(case, packed, x, weight.segment)
    assert torch.equal(dispatch.linear(x, weight, 8), torch.from_numpy(expected.y).half())
    assert np.array_equal(dispatch.exact_integers(x, weight, 8).numpy(), expected.totals)
    assert dispatch.path_for(weight, 3, 8) == "cuda-binary"
    assert gpu.loaded[-1].family == BINARY
    timed = gpu.timed
    dispatch.linear(x, weight, 8)
    assert gpu.timed == timed  # the table has the plan
    assert dispatch.linear(x[:0], weight, 8).shape == (0, 40)


def test_16_bit_activations_use_the_dequantized_weight(gpu: EmulatedGpu) -> None:
    case = Case(3, 16, 4, 50, 300, True, 64)
    packed, x = case.weight(), case.tokens()
    expected = x.double() @ torch.from_numpy(packed.dequantize()).double().T
    expected += 0 if packed.bias is None else torch.from_numpy(packed.bias).double()
    weight = upload(packed, "cpu")
    assert dispatch.path_for(weight, 4, 16) == "cuda-dequantized"
    torch.testing.assert_close(dispatch.linear(x, weight, 16).double(), expected, rtol=1e-4, atol=1e-3)


def test_nothing_is_timed_while_a_graph_is_captured(gpu: EmulatedGpu) -> None:
    case = Case(2, 8, 1, 16, 256)
    packed, x = case.weight(), case.tokens()
    weight = upload(packed, "cpu")
    gpu.capturing = True
    y = engine.linear(x, weight, 8)
    assert gpu.timed == 0
    assert torch.equal(y, torch.from_numpy(Expected.of(case, packed, x, weight.segment).y))


def test_a_path_that_fails_its_self_test_is_disabled(gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_self_test", lambda family, place: family != BINARY)
    weight = upload(Case(2, 8).weight(), "cpu")
    with pytest.warns(engine.GpuPathWarning, match="'cuda-binary' returned wrong results on Emulated GPU"):
        assert engine.path_for(weight, 1, 8) == "cuda-int8"


def test_self_tests_run_the_kernels(gpu: EmulatedGpu) -> None:
    assert all(engine.works(family, 0) for family in (BINARY, BYTES, LIBRARY))
    assert {name.split("_")[0] for name in gpu.launched} == {"quantize", BINARY, BYTES, "unpack", "finish"}


def test_no_working_kernel_is_a_named_error(gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "works", lambda family, index: False)
    with pytest.raises(engine.GpuPathError, match="every kernel for 2 planes in segments of 256 columns"):
        engine.linear(torch.zeros(1, 256), upload(Case(2, 8).weight(), "cpu"), 8)


def test_devices_without_binary_tensor_cores_use_int8(gpu: EmulatedGpu) -> None:
    gpu.arch = "100"
    assert engine.path_for(upload(Case(2, 8).weight(), "cpu"), 1, 8) == "cuda-int8"
    assert not engine.works(BINARY, 0)


def test_wrong_shapes_dtypes_and_bits_are_refused(gpu: EmulatedGpu) -> None:
    packed = Case(2, 8).weight()
    weight = upload(packed, "cpu")
    with pytest.raises(ShapeError, match=r"\(1, 255\) do not fit a weight \(16, 256\)"):
        dispatch.linear(torch.zeros(1, 255), weight, 8)
    with pytest.raises(ShapeError, match="act_bits is 9"):
        dispatch.linear(torch.zeros(1, 256), weight, 9)
    with pytest.raises(ShapeError, match="not float64"):
        dispatch.linear(torch.zeros(1, 256, dtype=torch.float64), weight, 8)
    with pytest.raises(ShapeError, match="upload the weight first"):
        dispatch.linear(torch.zeros(1, 256), packed, 8)  # type: ignore[call-overload]
    with pytest.raises(ShapeError, match=r"with strides \(1, 2\)"):
        dispatch.linear(torch.zeros(256, 2).T, weight, 8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_no_device_is_a_named_error() -> None:
    with pytest.raises(CudaError, match="no CUDA device"):
        driver.device(0)


def test_a_device_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Turing:
        major, minor, name, multi_processor_count = 7, 5, "Tesla T4", 40

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Turing)
    with pytest.raises(ArchitectureError, match="sm_75 has neither"):
        driver.CudaDevice(0)
