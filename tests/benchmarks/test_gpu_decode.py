"""The GPU decode benchmark on the CPU with small shapes, and its required packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu_decode import column_model, main

from kernels.cuda.driver import CudaError

ROOT = Path(__file__).parents[2]
ABSENT = ("gradio", "sqlalchemy", "plotly", "datasets", "psutil", "platformdirs", "typer", "app", "storage")
GPU_TESTS = ("tests/kernels", "tests/abq_core/inference")  # the folders that benchmarks/README.md names
HIDE = f"for name in {ABSENT}: sys.modules[name] = None"


def test_every_kind_of_column_is_measured_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "decode.json"
    columns = ["fp16", "int8", "W8A8", "W2*A8"]
    sizes = ["--device", "cpu", "--model", "random-256", "--blocks", "1", "--tokens", "4", "--rounds", "2"]
    main([*sizes, "--columns", *columns, "--json", str(out)])
    result = json.loads(out.read_text("utf-8"))
    assert result["model"] == "random-256" and result["blocks"] == 1
    assert {"torch", "transformers"} <= result["machine"]["versions"].keys()
    rows = {row["column"]: row for row in result["columns"]}
    assert list(rows) == columns
    linears = 4 * 256 * 256 + 3 * 256 * 704
    outputs = 5 * 256 + 2 * 704
    assert rows["fp16"]["weight_bytes"] == 2 * linears and rows["int8"]["weight_bytes"] == linears + 4 * outputs
    for row in rows.values():
        assert row["tokens_per_second"] > 0 and row["first_token_seconds"] > 0 and row["peak_bytes"] is None
        assert len(row["rounds_tokens_per_second"]) == 2
        assert row["faster_than_fp16"] > 0 and row["faster_than_w8a8"] > 0
    assert rows["fp16"]["smaller_than_fp16"] == rows["W8A8"]["smaller_than_w8a8"] == 1
    assert 4 < rows["W2*A8"]["smaller_than_fp16"] < 16 / 3
    assert rows["fp16"]["path"] == "torch F.linear fp16" and rows["int8"]["path"].startswith("torch._int_mm")
    assert rows["W8A8"]["path"].startswith("abq ")
    assert capsys.readouterr().out.count(" tokens/s") == len(columns)


@pytest.mark.parametrize("column", ["fp16", "int8", "W2A8"])
def test_copies_of_a_block_do_not_share_memory(column: str) -> None:
    model = column_model("random-256", 3, column, "cpu").model
    seen = set()
    for block in model.model.layers:
        linear = block.mlp.down_proj
        data = linear.weight if column == "fp16" else linear.codes if column == "int8" else linear.packed.data
        seen.add(data.ctypes.data if column == "W2A8" else data.data_ptr())
    assert len(seen) == 3
    assert model.model.norm.weight.dtype == torch.float16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("script", ["gpu_decode", "gpu_kernels"])
def test_scripts_run_without_the_packages_of_page_and_database(script: str) -> None:
    done = run_python(f"import sys\n{HIDE}\nimport {script}")
    assert done.returncode == 0, done.stderr


def test_gpu_tests_run_without_the_packages_of_page_and_database() -> None:
    words = ["-m", "gpu", "--collect-only", "-q", *GPU_TESTS]
    done = run_python(f"""
import sys, pytest
class Hiding:
    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self):  # pytest's own packages are already loaded
        {HIDE}
sys.exit(pytest.main({words}, plugins=[Hiding()]))
""")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cuda/test_device.py" in done.stdout and "test_graph_decoder_gpu.py" in done.stdout


def test_all_gpu_tests_are_in_the_folders_that_the_readme_names() -> None:
    assert f"-m gpu -n 4 {' '.join(GPU_TESTS)}\n" in (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text("utf-8")]
    others = [path for path in marked if not any(path.is_relative_to(ROOT / folder) for folder in GPU_TESTS)]
    assert marked and [path for path in others if path != Path(__file__)] == []


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code in the project's root, with `benchmarks` on the path."""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    words = [sys.executable, "-c", code]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported() -> None:
    with pytest.raises(CudaError, match="no CUDA device"):
        main(["--model", "random-256"])
