"""Stored timings on the page, of this machine or the GPU of another one."""

import pandas as pd
import pytest

from app.figures.throughput import BASELINES, baselines_of, speedup_figure
from app.web.tabs.speed.measurements import kernel_answer, kernel_table
from kernels.benchmark.peers import PEERS


def timed(*speedups: dict[str, float] | None) -> pd.DataFrame:
    case = {
        "engine": "abq", "precision": "W2A8", "n": 4096, "k": 4096, "path": "cuda-binary", "median_us": 9.0,
        "iqr_us": 1.0, "cold_us": 12.0, "exact": True, "packed_bytes": 4 << 20, "threads": 1,
    }  # fmt: skip
    return pd.DataFrame([{**case, "m": 1 << row, "speedup": speedup} for row, speedup in enumerate(speedups)])


def test_engines_that_a_gpu_was_compared_with_are_shown() -> None:
    rows = timed({"cublas-fp16": 4.5, "cublaslt-int8": 3.0}, {"cublas-fp16": 0.5, "cublaslt-int8": 0.7})
    answer = kernel_answer(rows)
    assert "<b>4.5 times</b> as fast as cuBLAS FP16 on path cuda-binary" in answer
    assert "W2A8 at M=2 is slower than cuBLAS FP16" in answer
    assert "over cuBLAS FP16" in kernel_table(rows) and "over torch bf16" not in kernel_table(rows)
    assert [trace.name for trace in speedup_figure(rows).data] == ["over cuBLAS FP16", "over cuBLASLt INT8"]


def test_rows_may_be_compared_with_different_engines() -> None:
    rows = timed({"torch-bf16": 3.0}, {"onnxruntime": 1.5}, None)
    assert "<b>3.0 times</b> as fast as torch bf16" in kernel_answer(rows)
    assert "over ONNX Runtime" in kernel_table(rows)


@pytest.mark.parametrize("speedup", [None, {}, {"<script>": 2.0}])
def test_timings_without_a_known_engine_are_shown(speedup: dict[str, float] | None) -> None:
    rows = timed(speedup)
    assert not baselines_of(rows)
    assert "no other engine" in kernel_answer(rows)
    assert "exact" in kernel_table(rows) and "script" not in kernel_table(rows)


def test_bars_are_distinguishable_without_colour() -> None:
    kinds = [(baseline.lens, baseline.pattern) for engine, baseline in BASELINES.items()]
    here, there = kinds[:6], kinds[6:]
    assert len(set(here)) == len(here) and len(set(there)) == len(there)
    assert {"onnxruntime", "llama.cpp"} <= PEERS.keys() & BASELINES.keys()
