"""The benchmark of whole models beside llama.cpp, on a small model; GGUF columns where the packages are installed."""

import json
from pathlib import Path

import pytest
from decode_peers import RESULT, main, table
from family_cases import family_model
from gguf_cases import write_gguf


def test_a_model_is_timed_and_put_into_the_page(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "peers.json", tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n", "utf-8")
    sizes = ["--rounds", "2", "--tokens", "3", "--prompt", "20"]
    page.write_text(page.read_text("utf-8") + "<!-- other -->\nreplaced\n<!-- end of other -->\nlast\n", "utf-8")
    columns = ["--columns", "W4A8h8", *sizes, "--out", str(out), "--markdown", str(page)]
    main([str(tiny_llama), *columns])
    result = json.loads(out.read_text("utf-8"))
    (row,) = result["columns"]
    assert row["engine"] == "abq" and row["weights"] == "W4A8h8" and len(row["rounds_tokens_per_second"]) == 2
    assert row["tokens_per_second"] > 0 and row["prompt_tokens_per_second"] > 0
    assert 0 < row["bytes"] < (tiny_llama / "model.safetensors").stat().st_size < row["resident_bytes"]
    written = page.read_text("utf-8")
    assert "| abq | `W4A8h8` |" in written and "old" not in written
    assert table(result) in written and table(result) in capsys.readouterr().out
    assert "replaced" in written and written.endswith("last\n")
    main([str(tiny_llama), *columns, "--part", "other"])
    assert "replaced" not in page.read_text("utf-8") and table(result) in page.read_text("utf-8")


def test_gguf_files_are_timed_in_llama_cpp(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    file, out = tmp_path / "tiny.gguf", tmp_path / "peers.json"
    write_gguf(family_model("llama"), tiny_llama / "tokenizer.json", file, "Q8_0")
    sizes = ["--rounds", "1", "--tokens", "3", "--prompt", "20"]
    main([str(tiny_llama), "--gguf", str(file), "--columns", "W8A8", *sizes, "--out", str(out)])
    rows = json.loads(out.read_text("utf-8"))["columns"]
    peer = next(row for row in rows if row["engine"] == "llama.cpp")
    assert peer["weights"] == file.stem and peer["bytes"] == file.stat().st_size and peer["tokens_per_second"] > 0


@pytest.mark.parametrize("name", ["decode-peers.json", "decode-peers-1b.json"])
def test_the_page_matches_the_stored_results(name: str) -> None:
    page = (RESULT.parents[2] / "docs" / "decode-peers.md").read_text("utf-8")
    assert table(json.loads(RESULT.with_name(name).read_text("utf-8"))) in page
