"""The GPU benchmark's rows and checks before timing, on the emulator."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu

from kernels.cuda import bench, engine
from kernels.cuda.bench import Limits, bench_gpu
from kernels.cuda.peers import LeftOut
from kernels.measurement import KernelMeasurement
from kernels.precision_names import BenchError

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)
WIDE = {"cublas-fp16", "cublas-bf16"}  # peers with the widest weights
PEERS = {*WIDE, "cublaslt-int8"}


@pytest.fixture
def quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Fixed ceilings, so that their loops are not emulated; test_ceiling.py covers them."""
    found = {"b1": 4e12, "int8": 1e12, "int8-library": 2e12, "fp16-library": 5e12}
    monkeypatch.setattr(bench, "measure_ceilings", lambda on: found)
    return found


def test_rows_of_one_run(gpu: EmulatedGpu, quick_ceilings: dict[str, float]) -> None:
    seen: list[KernelMeasurement] = []
    left_out: list[LeftOut] = []
    limits: list[Limits] = []
    rows = bench_gpu(gpu, ["W2A8", "W3A4g128"], [(48, 256)], [1, 3], seen.append, left_out.append, limits.append)
    assert rows == seen
    assert limits == [Limits(1000.0, quick_ceilings)]
    assert len(rows) == 2 * (2 + len(PEERS))
    for row in rows:
        assert (row.n, row.k, row.device, row.read_gb_per_second) == (48, 256, "Emulated GPU", 1000.0)
        assert row.median_us > 0
        assert row.cold_us > 0
        assert set(row.speedup) == (WIDE if row.precision in ("FP16", "BF16") else PEERS)
        assert row.exact
        assert row.path.startswith("cuda-") == (row.engine == "abq")
    w2 = next(row for row in rows if row.precision == "W2A8" and row.m == 1)
    assert w2.packed_bytes < 48 * 256 * 2 // 8 + 48 * 10 + 1
    cold, warm = gpu.recorded[0::2], gpu.recorded[1::2]
    assert set(warm) == {4}  # calls with one weight, about a millisecond together
    assert min(cold) >= 2  # each call with another copy
    assert max(cold) * w2.packed_bytes >= 3 * gpu.cache_bytes
    assert {(one.engine, one.precision) for one in left_out} == {("gemlite", ""), ("humming", ""), ("torch", "W4A16")}
    assert "multiples of 64 rows and 128 columns, not 48x256" in str(
        next(one for one in left_out if one.precision == "W4A16")
    )


def test_operations_and_the_binding_limit(gpu: EmulatedGpu, quick_ceilings: dict[str, float]) -> None:
    rows = bench_gpu(gpu, ["W2*A4", "W8A8g32"], [(32, 256)], [2], on_left_out=lambda one: None)
    by_path = {row.path.split(",")[0]: row for row in rows}
    products = 2 * 2 * 32 * 256
    assert by_path["cuda-binary"].operations == 3 * 4 * products  # a starred weight has one more plane
    assert by_path["cuda-binary"].ceiling_gop_per_second == 4000
    assert by_path["cuda-int8"].operations == products
    assert by_path["cuda-int8"].ceiling_gop_per_second == 1000
    assert by_path["torch._int_mm"].ceiling_gop_per_second == 2000
    assert {row.ceiling_gop_per_second for row in rows if row.engine in WIDE} == {5000}
    for row in rows:
        assert row.limit is not None
        name, share = row.limit
        memory_us = row.bytes_moved / 1000e9 * 1e6
        operations_us = row.operations / (row.ceiling_gop_per_second * 1e9) * 1e6
        assert name == ("memory" if memory_us > operations_us else "operations")
        assert share == pytest.approx(max(memory_us, operations_us) / row.cold_us)
    assert {row.limit[0] for row in rows} == {"memory", "operations"}  # type: ignore[index]


def test_without_a_ceiling_there_is_no_limit() -> None:
    row = KernelMeasurement("W2A8", 1, 1, 1, "abq", "cuda-binary", 1, 0, 1, True, {}, 1, 1, 1, "GPU", 1000.0)
    assert row.limit is None
    assert {"operations", "ceiling_gop_per_second"} <= set(asdict(row))


@pytest.mark.parametrize(("seconds", "calls"), [(3e-3, 3), (1e-6, 20)])
def test_the_number_of_repeated_calls_depends_on_the_time(
    gpu: EmulatedGpu, quick_ceilings: dict[str, float], seconds: float, calls: int
) -> None:
    gpu.replay_seconds = seconds
    bench_gpu(gpu, ["W4A16"], [(16, 256)], [1], on_left_out=lambda one: None)
    assert set(gpu.recorded[1::2]) == {calls}


def test_an_unknown_precision_is_refused_before_anything_is_measured(gpu: EmulatedGpu) -> None:
    with pytest.raises(BenchError, match="W9A8"):
        bench_gpu(gpu, ["W2A8", "W9A8"], [(32, 256)], [1])
    assert gpu.launched == []


@pytest.mark.parametrize("wrong", ["exact_integers", "linear"])
def test_a_wrong_result_is_not_exact(
    gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch, quick_ceilings: dict[str, float], wrong: str
) -> None:
    right = getattr(engine, wrong)

    def spoilt(*args: Any) -> torch.Tensor:
        found = right(*args)
        found[0, 7] += 1
        return found

    assert all(engine.works(family, 0) for family in engine.PATHS)  # run the self-tests before the patch
    monkeypatch.setattr(engine, wrong, spoilt)
    rows = bench_gpu(gpu, ["W4A4"], [(32, 256)], [1], on_left_out=lambda one: None)
    assert [row.exact for row in rows] == [row.engine != "abq" for row in rows]


def test_16_bit_activations_are_checked_too(gpu: EmulatedGpu, quick_ceilings: dict[str, float]) -> None:
    rows = bench_gpu(gpu, ["W4A16g64"], [(32, 256)], [2], on_left_out=lambda one: None)
    ours = next(row for row in rows if row.engine == "abq")
    assert (ours.path, ours.exact, ours.ceiling_gop_per_second) == ("cuda-dequantized", True, 5000)
    assert np.isfinite(ours.cold_us)


def test_the_script_writes_rows_limits_and_left_out_peers(
    gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    import gpu_kernels

    gpu.processors = 1
    words = ["--precisions", "W2A8", "--shapes", "32x256", "--m", "1", "--json", str(tmp_path / "out.json"), "--apart"]
    gpu_kernels.main(words)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["machine"]["launches_overlap"] is False
    assert set(found) == {"machine", "command", "limits", "left_out", "measurements"}
    assert found["command"] == words
    assert set(found["limits"]["operations_per_second"]) == {"b1", "int8", "int8-library", "fp16-library"}
    assert {one["engine"] for one in found["left_out"]} == {"gemlite", "humming", "torch"}
    ours = next(row for row in found["measurements"] if row["engine"] == "abq")
    assert ours["operations"] == 2 * 2 * 8 * 32 * 256
    assert ours["limit"] in ("memory", "operations")
    assert ours["limit_share"] > 0
    said = capsys.readouterr().out
    assert said.count(" is left out: ") == len(found["left_out"])
    assert f"% of {ours['limit']}, exact" in said
    assert said.startswith("copies 1000 GB/s, b1 ")


def test_an_interrupted_run_keeps_its_measurements(
    gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    import gpu_kernels

    def cut(row: Any) -> None:
        if row.m == 2:
            raise KeyboardInterrupt

    gpu.processors = 1
    monkeypatch.setattr(gpu_kernels, "show", cut)
    words = ["--precisions", "W2A8", "--shapes", "32x256", "--m", "1,2", "--json", str(tmp_path / "out.json")]
    with pytest.raises(KeyboardInterrupt):
        gpu_kernels.main(words)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["machine"]["launches_overlap"] is True
    assert {row["m"] for row in found["measurements"]} == {1}


def test_quick_changes_only_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    import gpu_kernels

    full, quick = gpu_kernels.read_arguments([]), gpu_kernels.read_arguments(["--quick", "--m", "7"])
    assert full.shapes.split(",") == [
        "4096x4096", "11008x4096", "4096x11008", "5120x5120", "13824x5120", "5120x13824", "8192x28672",
    ]  # fmt: skip
    assert (quick.m, quick.shapes) == ("7", "4096x4096,11008x4096")
