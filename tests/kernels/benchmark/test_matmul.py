"""The CPU benchmark: its rows, and the check of results before timing."""

from typing import Any

import numpy as np
import pytest
from instruction_sets import MAY_SATURATE

from kernels import dispatch
from kernels.benchmark import matmul, timing
from kernels.benchmark.matmul import bench_kernels
from kernels.measurement import KernelMeasurement
from kernels.precision_names import BenchError

ENGINES = {"torch-fp32", "torch-bf16", "torch-int8"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_BUDGET_SECONDS", 0.05)
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 1e-5)
    monkeypatch.setattr(timing, "_MOST_COPIES", 3)


def test_rows_of_one_run() -> None:
    seen: list[KernelMeasurement] = []
    rows = bench_kernels(["W2A8", "W2*A8", "W4A4g32", "W1A1", "W4A16"], [(64, 96)], [1, 6], 1, seen.append)
    assert rows == seen
    assert len(rows) == 2 * (5 + len(ENGINES))
    for row in rows:
        assert (row.n, row.k, row.threads, row.device) == (64, 96, 1, "cpu")
        assert row.median_us > 0
        assert row.iqr_us >= 0
        assert row.cold_us > 0
        assert row.cold_iqr_us is not None and row.cold_iqr_us >= 0
        assert 0.1 < row.read_gb_per_second < 2000
        assert row.bytes_moved == row.packed_bytes + 4 * row.m * (64 + 96)
        narrower = {"FP32": {"torch-bf16", "torch-int8"}, "BF16": {"torch-int8"}}.get(row.precision, set())
        assert set(row.speedup) == ENGINES - narrower
        assert row.exact or row.engine in MAY_SATURATE
    own = {row.engine: row for row in rows if row.m == 1 and row.engine in ENGINES}
    assert set(own) == ENGINES
    for engine, row in own.items():
        assert row.speedup[engine] == 1.0
        assert row.speedup["torch-fp32"] == pytest.approx(own["torch-fp32"].median_us / row.median_us)
    w2 = next(row for row in rows if row.precision == "W2A8" and row.m == 1)
    assert w2.speedup["torch-bf16"] == pytest.approx(own["torch-bf16"].median_us / w2.median_us)
    assert w2.packed_bytes == 64 * 96 * 2 // 8 + 64 * 10
    assert {row.path for row in rows if row.precision == "W4A16"} == {"dequantized-fp32"}


def test_a_wrong_integer_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dispatch.exact_integers

    def wrong(*args: Any) -> np.ndarray:
        integers = right(*args)
        integers[0, 7, 0] += 1
        return integers

    monkeypatch.setattr(dispatch, "exact_integers", wrong)
    rows = bench_kernels(["W4A4"], [(32, 64)], [1], 1)
    assert all(row.exact == (row.engine != "abq") for row in rows if row.engine not in MAY_SATURATE)


@pytest.mark.parametrize("name", ["W9A8", "W0A8", "W4A9", "FP16", "W4", "W16A16", ""])
def test_invalid_precision_names_are_refused(name: str) -> None:
    with pytest.raises(BenchError, match=r"e\.g\. W2\*A8"):
        bench_kernels([name], [(32, 64)], [1], 1)


@pytest.mark.parametrize(("shapes", "m"), [([], [1]), ([(0, 64)], [1]), ([(32, 64)], []), ([(32, 64)], [0])])
def test_nothing_to_measure_is_refused(shapes: list[tuple[int, int]], m: list[int]) -> None:
    with pytest.raises(BenchError, match="nothing to measure"):
        bench_kernels(["W4A4"], shapes, m, 1)
