"""The comparison on the CPU: its page, and a small run of the script."""

import json
from pathlib import Path
from typing import Any

import cpu_peers
import pytest
from instruction_sets import MAY_SATURATE
from pages.cpu_peers_page import TARGETS, bandwidth_text, page, ratio

from kernels.benchmark import matmul, timing

MACHINE = {
    "cpu": "A Processor",
    "threads": 1,
    "cores": 2,
    "last_level_cache_bytes": 32 << 20,
    "read_gb_per_second": 10.0,
    "issue_gb_per_second": 30.0,
    "versions": {"numpy": "2"},
}


def row(engine: str, precision: str, median: float, cold: float, m: int = 1, path: str = "p") -> dict[str, Any]:
    return {
        "precision": precision, "n": 4096, "k": 4096, "m": m, "engine": engine, "path": path,
        "median_us": median, "iqr_us": 1.0, "cold_us": cold, "cold_iqr_us": 1.0, "exact": True,
        "packed_bytes": 4_000_000,
    }  # fmt: skip


ROWS = [
    row("abq", "W2A8", 200, 500),
    row("abq", "W2A2", 100, 400),
    row("abq", "W8A8", 1000, 1100),
    row("onnxruntime", "W2A8", 300, 600),
    row("onnxruntime", "W8A8", 2500, 2600),
    row("torch-int8", "W8A8", 1100, 1200),
    row("llama.cpp", "W2A8", 350, 400, path="mul_mat q2_K"),
    row("llama.cpp", "W2A8", 500, 400, path="mul_mat tq2_0"),
    row("torch-bf16", "BF16", 9000, 4000),
    row("torch-bf16", "BF16", 9000, 4000, m=8),
]


def test_ratios_use_the_rows_of_the_target() -> None:
    found = {(p.precision, p.against): ratio(ROWS, p, 1) for p in TARGETS}
    assert found == {
        ("W2A8", "ONNX Runtime W2"): 1.5,
        ("W4A8", "ONNX Runtime W4"): None,
        ("W8A8", "the best of ONNX Runtime W8 and torch int8"): 1.1,
        ("W2A8", "llama.cpp tq2_0"): 2.5,
        ("W2A2", "our own W2A8"): 2.0,
        ("W2A8", "torch bf16, cold"): 8.0,
    }


def test_the_page_shows_met_and_missed_targets() -> None:
    text = page({"machine": MACHINE, "measurements": ROWS}, "python benchmarks/cpu_peers.py --quick")
    assert "| W2A8 | ONNX Runtime W2 | 1 | 1.50 | 1.4 | met |" in text
    assert "| W8A8 | the best of ONNX Runtime W8 and torch int8 | 1 | 1.10 | 1.2 | **missed** |" in text
    rows = text.partition("## All measurements")[2]
    assert rows.count("| 4096x4096 |") == len(ROWS)
    assert "A Processor" in text
    assert text.endswith("Reproduce with `python benchmarks/cpu_peers.py --quick`.\n")


def test_ratios_of_every_shape_are_bold_if_the_peer_is_faster() -> None:
    slower = [{**row("onnxruntime", "W2A8", 30, 60, m=8), "n": 64}, {**row("abq", "W2A8", 60, 60, m=8), "n": 64}]
    text = page({"machine": MACHINE, "measurements": ROWS + slower}, "")
    assert "| ours | against | shape | M = 1 | M = 8 |" in text
    assert "| W2A8 | ONNX Runtime W2 | 4096x4096 | 1.50 |  |" in text
    assert "| W2A8 | ONNX Runtime W2 | 64x4096 |  | **0.50** |" in text


@pytest.mark.parametrize(("issue", "part"), [(30.0, "80 % of 10.0 GB/s, the memory bandwidth"), (8.0, "100 % of 8.0")])
def test_the_bottleneck_is_named(issue: float, part: str) -> None:
    text = bandwidth_text({**MACHINE, "issue_gb_per_second": issue}, ROWS)
    assert "reads 8.0 GB/s of packed weight" in text
    assert part in text
    assert ("VNNI instructions" in text) == (issue < 10)


def test_a_small_run_writes_results_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matmul, "_BUDGET_SECONDS", 0.01)
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 1e-5)
    monkeypatch.setattr(timing, "_MOST_COPIES", 2)
    monkeypatch.setattr(cpu_peers, "installed_peers", lambda: ["torch"])
    figures, written = tmp_path / "figures.json", tmp_path / "page.md"
    options = [
        "--shapes",
        "64x128",
        "--m",
        "1",
        "3",
        "--threads",
        "1",
        "--json",
        str(figures),
        "--markdown",
        str(written),
    ]
    cpu_peers.main(options)
    shown = capsys.readouterr().out
    assert "onnxruntime is not installed and is omitted" in shown
    content = json.loads(figures.read_text())
    assert {row["m"] for row in content["measurements"]} == {1, 3}
    assert {row["engine"] for row in content["measurements"]} >= {"abq", "torch-bf16", "torch-int8"}
    assert all(row["exact"] or row["engine"] in MAY_SATURATE for row in content["measurements"])
    assert set(content["machine"]) >= {"cpu", "flags", "versions", "read_gb_per_second", "issue_gb_per_second"}
    _, _, rows = written.read_text().partition("## All measurements")
    assert rows.count("| 64x128 |") == len(content["measurements"])
    assert "--shapes 64x128 --m 1 3" in rows
