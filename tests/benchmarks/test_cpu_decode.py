"""The decode benchmark on a small random model: real processes, every kind of column."""

import json
from pathlib import Path

import pytest
from cpu_decode import RESULT, main, measured_page


def test_every_kind_of_column_is_measured_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "decode.json"
    columns = ["bf16", "int8", "W2A8kv4"]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n", "utf-8")
    sizes = ["--models", "random-256", "--columns", *columns, "--rounds", "2", "--tokens", "3"]
    main([*sizes, "--out", str(out), "--markdown", str(page)])
    result = json.loads(out.read_text("utf-8"))
    assert result["machine"]["threads"] >= 1 and result["machine"]["read_gb_per_second"] > 0
    assert {"torch", "transformers", "abq-explorer", "python"} <= result["machine"]["versions"].keys()
    rows = {row["column"]: row for row in result["models"]["random-256"]["columns"]}
    assert list(rows) == columns
    for row in rows.values():
        assert row["tokens_per_second"] > 0 and row["first_token_seconds"] > 0
        assert len(row["rounds_tokens_per_second"]) == 2
        assert row["resident_bytes"] > row["weight_bytes"]
    blocks, linears = 8, 4 * 256 * 256 + 3 * 256 * 704
    assert rows["bf16"]["weight_bytes"] == 2 * blocks * linears
    assert rows["bf16"]["faster_than_bf16"] == rows["bf16"]["smaller_than_bf16"] == 1
    assert 7 < rows["W2A8kv4"]["smaller_than_bf16"] < 8
    assert 0 < result["start"]["first_product_seconds"]
    written = page.read_text("utf-8")
    assert written.startswith("before\n<!-- measured -->\n") and written.endswith("<!-- end -->\nafter\n")
    assert "| W2A8kv4 | abq " in written and "| W2A8kv4 | abq " in capsys.readouterr().out and "old" not in written


def test_the_page_matches_the_stored_results() -> None:
    stored = json.loads(RESULT.read_text("utf-8"))
    page = (RESULT.parents[2] / "docs" / "decode.md").read_text("utf-8")
    assert measured_page(stored) in page
