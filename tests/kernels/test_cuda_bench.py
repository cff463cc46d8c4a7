"""The GPU benchmark's rows and its check before timing, with the emulator in the driver's place."""

from typing import Any

import pytest
import torch
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu

from kernels.bench import KernelMeasurement
from kernels.cuda import engine
from kernels.cuda.bench import bench_gpu

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)
PEERS = {"cublas-fp16", "cublas-bf16", "cublaslt-int8"}


def test_rows_of_one_run(gpu: EmulatedGpu) -> None:
    seen: list[KernelMeasurement] = []
    rows = bench_gpu(gpu, ["W2A8", "W3A4g128"], [(48, 256)], [1, 3], seen.append)
    assert rows == seen
    assert len(rows) == 2 * (2 + len(PEERS))
    for row in rows:
        assert (row.n, row.k, row.device, row.read_gb_per_second) == (48, 256, "Emulated GPU", 1000.0)
        assert row.median_us > 0
        assert row.cold_us > 0
        assert set(row.speedup) == PEERS
        assert row.exact == (row.engine == "abq")
        assert row.path.startswith("cuda-") == (row.engine == "abq")
    w2 = next(row for row in rows if row.precision == "W2A8" and row.m == 1)
    assert w2.packed_bytes < 48 * 256 * 2 // 8 + 48 * 10 + 1
    warm, cold = gpu.recorded[0::2], gpu.recorded[1::2]
    assert set(warm) == {20}  # calls on one weight
    assert min(cold) >= 2  # each of them on another one
    assert max(cold) * w2.packed_bytes >= 3 * gpu.cache_bytes


@pytest.mark.parametrize("wrong", ["exact_integers", "linear"])
def test_a_wrong_result_is_not_exact(gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    right = getattr(engine, wrong)

    def spoilt(*args: Any) -> torch.Tensor:
        found = right(*args)
        found[0, 7] += 1
        return found

    assert all(engine.works(family, 0) for family in engine.PATHS)  # before their results are spoilt
    monkeypatch.setattr(engine, wrong, spoilt)
    rows = bench_gpu(gpu, ["W4A4"], [(32, 256)], [1])
    assert not any(row.exact for row in rows)
