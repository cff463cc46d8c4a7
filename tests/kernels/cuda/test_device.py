"""The kernels on a GPU: the emulator's cases, large shapes, concurrent streams, CUDA graphs."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_cases import attend, heads_of, normed, values
from cuda_cases import Case, Expected, assert_exact

from abq_core.inference.int8_linear import Int8Linear
from kernels import dispatch
from kernels.cuda import decode_attention, driver, engine, int8
from kernels.cuda.ceiling import CeilingArguments, expected_sums, measure_ceilings, random_operands
from kernels.cuda.compile import has_binary_mma
from kernels.cuda.device_tensors import DeviceWeight, upload
from kernels.cuda.inputs import Gated
from kernels.cuda.peers import LeftOut, PeerSet
from kernels.cuda.plan import candidates, families
from kernels.cuda.tiles import CEILINGS, THREADS
from kernels.formats.activations import quantize_activations
from kernels.formats.planes import ShapeError
from kernels.hadamard import transformed, transformed_tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ON = "cuda:0"


@pytest.fixture(scope="module")
def device() -> driver.CudaDevice:
    return driver.device(0)


def uploaded(case: Case) -> tuple[DeviceWeight, torch.Tensor]:
    return upload(case.weight(), ON), case.tokens().to(ON)


@pytest.mark.parametrize("act_bits", range(1, 9))
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("starred", [False, True])
def test_every_precision_on_every_plan(device: driver.CudaDevice, bits: int, act_bits: int, starred: bool) -> None:
    for m, n, k in ((1, 33, 300), (5, 16, 1030), (17, 100, 513)):
        case = Case(bits, act_bits, m, n, k, starred, None, torch.float16, spacing=1 + bits % 2)
        weight, _ = uploaded(case)
        for family in families(weight, device.arch):
            for plan in candidates(weight, m, act_bits, (family,), device.processors):
                assert_exact(case, device, plan, ON)


@pytest.mark.parametrize("group_size", [32, 64, 96, 128, 256, 384])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_groups(device: driver.CudaDevice, group_size: int, dtype: torch.dtype) -> None:
    for bits, m in ((2, 1), (3, 7), (4, 33), (8, 3)):
        case = Case(bits, 8, m, 50, 1100, False, group_size, dtype, spacing=1 + m % 2)
        weight, _ = uploaded(case)
        for family in families(weight, device.arch):
            for plan in candidates(weight, m, 8, (family,), device.processors):
                assert_exact(case, device, plan, ON)


@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (11008, 4096), (4096, 11008)])
@pytest.mark.parametrize("m", [1, 8, 100, 512])
@pytest.mark.parametrize(("bits", "act_bits"), [(2, 8), (4, 4), (8, 8)])
def test_large_shapes(device: driver.CudaDevice, n: int, k: int, m: int, bits: int, act_bits: int) -> None:
    case = Case(bits, act_bits, m, n, k, dtype=torch.float16)
    packed = case.weight()
    weight, x = upload(packed, ON), case.tokens().to(ON)
    totals = engine.exact_integers(x, weight, act_bits)[:, :, 0].double()
    codes = torch.from_numpy(packed.codes().astype(np.float64)).to(ON)
    zero = torch.from_numpy(packed.zero.astype(np.float64)).to(ON)
    act_codes, _, act_zero, _ = quantize_activations(x.float().cpu().numpy(), act_bits, packed.act_clip)
    centred = torch.from_numpy(act_codes.astype(np.float64) - act_zero[:, None]).to(ON)
    assert torch.equal(totals, centred @ (codes - zero).T)  # float64 is exact below 2^53


@pytest.mark.parametrize("hadamard", [1, 2, 32, 256])
def test_dispatch_takes_tensors_on_the_gpu(hadamard: int) -> None:
    case = Case(2, 8, 3, 64, 512, dtype=torch.float16, hadamard=hadamard)
    weight, x = uploaded(case)
    expected = Expected.of(case, case.weight(), x, weight.segment)
    assert dispatch.path_for(weight, 3, 8) in ("cuda-binary", "cuda-int8")
    assert torch.equal(dispatch.linear(x, weight, 8).cpu(), torch.from_numpy(expected.y).half())
    assert np.array_equal(dispatch.exact_integers(x, weight, 8).cpu().numpy(), expected.totals)
    assert dispatch.linear(x[:0], weight, 8).shape == (0, 64)
    with pytest.raises(ShapeError, match="move one to the other"):
        dispatch.linear(x.cpu(), weight, 8)


def test_the_hadamard_transform_is_bit_identical_to_the_cpus() -> None:
    x = Case(2, 8, 5, 16, 768).tokens()
    for block in (2, 16, 256):
        assert torch.equal(transformed_tensor(x.to(ON), block).cpu(), torch.from_numpy(transformed(x.numpy(), block)))


def test_16_bit_activations_are_the_float_product() -> None:
    case = Case(3, 16, 4, 50, 300, True, 64, torch.float32)
    weight, x = uploaded(case)
    expected = x.double().cpu() @ torch.from_numpy(case.weight().dequantize()).double().T
    bias = case.weight().bias
    expected += 0 if bias is None else torch.from_numpy(bias).double()
    torch.testing.assert_close(dispatch.linear(x, weight, 16).double().cpu(), expected, rtol=1e-3, atol=1e-2)


def test_self_tests_pass() -> None:
    on = driver.device(0)
    weight, _ = uploaded(Case(2, 8))
    assert all(engine.works(family, 0) for family in families(weight, on.arch))
    (first, *_) = engine.describe()["devices"]  # type: ignore[misc]
    assert first["name"] == torch.cuda.get_device_name(0)


def test_two_streams_at_once() -> None:
    cases = [Case(2, 8, m, 4096, 4096, dtype=torch.float16, seed=m) for m in (1, 8)]
    pairs = [uploaded(case) for case in cases]
    alone = [engine.linear(x, weight, 8) for weight, x in pairs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in pairs]
    outputs: list[list[torch.Tensor]] = [[], []]
    for _ in range(50):
        for (weight, x), stream, results in zip(pairs, streams, outputs, strict=True):
            with torch.cuda.stream(stream):
                results.append(engine.linear(x, weight, 8))
    torch.cuda.synchronize()
    for expected, results in zip(alone, outputs, strict=True):
        assert all(torch.equal(y, expected) for y in results)


@pytest.mark.parametrize("m", [1, 8, 100, 512])
def test_a_cuda_graph_holds_a_product(m: int) -> None:
    case = Case(2, 8, m, 1024, 2048, dtype=torch.float16)
    weight, x = uploaded(case)
    before = engine.linear(x, weight, 8)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        engine.linear(x, weight, 8)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = engine.linear(x, weight, 8)
    for _ in range(3):
        graph.replay()
    assert torch.equal(y, before)
    x.copy_(torch.flip(x, dims=[0]))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, torch.flip(before, dims=[0]))


def test_overlapping_launches_are_bit_identical(device: driver.CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of products, each of which quantizes the output of the previous one."""
    if not device.overlaps:
        pytest.skip(f"launches do not overlap on sm_{device.arch}")
    weights = [uploaded(Case(2, 8, 1, 2048, 2048, seed=seed))[0] for seed in range(8)]
    _, first = uploaded(Case(2, 8, 3, 2048, 2048))

    def chain() -> torch.Tensor:
        x = first
        for four in (weights[:4], weights[4:]) * 5:
            for weight in four:
                x = engine.linear(x, weight, 8)
            x = x / x.abs().amax()
        return x

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        in_graph = chain()
    monkeypatch.setattr(device, "overlaps", False)
    expected = chain()
    monkeypatch.setattr(device, "overlaps", True)
    for _ in range(20):
        graph.replay()
        assert torch.equal(in_graph, expected)
        assert torch.equal(chain(), expected)


@pytest.mark.parametrize("kind", ["b1", "int8"])
def test_the_ceiling_kernels_compute_the_products(device: driver.CudaDevice, kind: str) -> None:
    if kind == "b1" and not has_binary_mma(device.arch):
        pytest.skip(f"sm_{device.arch} has no binary tensor cores")
    blocks, steps = 2 * device.processors, 5000  # enough for INT8 sums to overflow
    left, right = random_operands(1)
    operands = [torch.from_numpy(values.view(np.int32)).to(ON) for values in (left, right)]
    sums = torch.empty((blocks, THREADS, 4), dtype=torch.int32, device=ON)
    arguments = CeilingArguments(*(tensor.data_ptr() for tensor in (*operands, sums)), steps)
    device.launch(CEILINGS[kind], (blocks, 1, 1), THREADS, 16, arguments)
    expected = expected_sums(kind, left, right, steps)
    found = sums.cpu().numpy().reshape(-1, 32, 4)
    assert np.array_equal(found, np.broadcast_to(expected, found.shape))


def test_every_ceiling_is_measured(device: driver.CudaDevice) -> None:
    found = measure_ceilings(device)
    kinds = {"int8", "int8-library", "fp16-library"} | ({"b1"} if has_binary_mma(device.arch) else set())
    assert set(found) == kinds
    assert all(1e12 < rate < 1e18 for rate in found.values())


def test_torchs_libraries_are_correct_and_none_is_left_out() -> None:
    left_out: list[LeftOut] = []
    peer_set = PeerSet(left_out.append, 0.0)
    weight, x = (torch.randn((rows, 512), device=ON).half() for rows in (256, 5))
    engines = peer_set.record_all(weight, x, lambda size: 2, lambda product: product.engine)
    assert set(engines) == {"cublas-fp16", "cublas-bf16", "cublaslt-int8", "torch-int4"}
    assert not [one for one in left_out if one.engine == "torch"]


def test_compute_sanitizer_finds_nothing() -> None:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        pytest.skip("compute-sanitizer is not installed")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'cases')!r})\n"
        "from cuda_cases import Case, assert_exact\n"
        "from kernels.cuda import driver\n"
        "from kernels.cuda.plan import candidates, families\n"
        "from kernels.cuda.device_tensors import upload\n"
        "on = driver.device(0)\n"
        "for bits, group in ((2, None), (3, 128), (8, 32)):\n"
        "    case = Case(bits, 8, 5, 50, 700, False, group)\n"
        "    weight = upload(case.weight(), 'cuda:0')\n"
        "    for family in families(weight, on.arch):\n"
        "        assert_exact(case, on, candidates(weight, 5, 8, (family,), on.processors)[0], 'cuda:0')\n"
    )
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(32, 32, 128), (32, 8, 128), (9, 3, 64), (4, 2, 256)])
def test_attention_of_one_token(heads: int, kv_heads: int, d: int, dtype: torch.dtype) -> None:
    assert decode_attention.works(0)
    for position, window, bits in ((0, None, None), (128, None, 4), (2047, None, None), (2000, 300, 8)):
        attend(heads_of(heads, kv_heads, d, 2048, position, window, bits, dtype, ON), position)


@pytest.mark.parametrize("act_bits", [4, 8, 16])
def test_norm_and_gate_are_fused_into_the_quantization(act_bits: int) -> None:
    weight, _ = uploaded(Case(2, act_bits, 1, 512, 11008))
    for make in (
        lambda: normed(1, 11008, torch.float16, on=ON),
        lambda: Gated(values(1, 22016, dtype=torch.float16).to(ON)),
    ):
        assert torch.equal(
            engine.linear(make(), weight, act_bits), engine.linear(engine.materialize(make()), weight, act_bits)
        )


@pytest.mark.parametrize("m", [1, 40])
@pytest.mark.parametrize(("n", "k"), [(4096, 11008), (22016, 4096)])
def test_fused_int8_equals_torchs_operations(m: int, n: int, k: int) -> None:
    assert int8.works(0)
    linear = Int8Linear.round(torch.nn.Linear(k, n, bias=False, device=ON, dtype=torch.float16))
    x = values(m, k, dtype=torch.float16).to(ON)
    assert torch.equal(int8.linear(x, linear.codes, linear.scale, None), linear(x))
    normed_x = normed(m, k, torch.float16, on=ON)
    found = int8.linear(normed_x, linear.codes, linear.scale, None)
    assert torch.equal(found, linear(engine.materialize(normed(m, k, torch.float16, on=ON))))
