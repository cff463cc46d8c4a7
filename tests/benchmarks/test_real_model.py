"""The benchmark of a real model, run on the built-in one, and its tables."""

import json
from pathlib import Path

import real_model
from pages.measured_part import BEGIN, END


def test_rows_are_measured_once_and_fill_the_page(tmp_path: Path) -> None:
    text, page, out = tmp_path / "words.txt", tmp_path / "page.md", tmp_path / "rows.json"
    other = tmp_path / "evaluated.txt"
    text.write_text("".join(f"def f{n}(path): return open(path, {n * n})\n" for n in range(400)))
    other.write_text("".join(f"def g{n}(path): return path.open({n * n})\n" for n in range(150)))
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    arguments = [
        "builtin",
        *("--calibrate-on", str(text), "--evaluate-on", str(other), "--data-dir", str(tmp_path / "data")),
        *("--out", str(out), "--markdown", str(page), "--precisions", "W4A8h8", "--set", "segments=2"),
    ]
    real_model.main([*arguments, "--methods", "rtn"])
    real_model.main([*arguments, "--methods", "rtn", "--speed", "--rounds", "1"])
    full, rounded, timed = json.loads(out.read_text())
    assert full["found"]["windows"]["perplexity"] < rounded["found"]["windows"]["perplexity"]
    assert rounded["found"]["paper"]["protocol"] == "paper" and rounded["found"]["seconds"] > 0
    assert [one["column"] for one in timed["found"]["rounds"][0]] == ["bf16", "W4A8h8"]
    written = page.read_text()
    assert written.startswith("# Before") and written.endswith("after\n") and "old" not in written
    for row in (full, rounded):
        assert f"| {row['found']['windows']['perplexity']:.2f} | {row['found']['paper']['perplexity']:.2f} |" in written
    kl = rounded["found"]["windows"]["kl_buckets"][0]["kl_mean"]
    assert f"| W4A8h8 | `rtn` segments=2 | {kl:.4f} |" in written

    rounded["found"]["windows"]["perplexity"] = 123.0  # a second call shows what is stored and measures nothing
    out.write_text(json.dumps([full, rounded]))
    real_model.main([*arguments, "--methods", "rtn"])
    assert "| 123.00 |" in page.read_text()


def test_settings_are_part_of_the_key_and_a_failed_row_does_not_end_the_benchmark(tmp_path: Path) -> None:
    text, out = tmp_path / "words.txt", tmp_path / "rows.json"
    text.write_text("too short")
    arguments = ["builtin", "--calibrate-on", str(text), "--evaluate-on", str(text), "--data-dir", str(tmp_path)]
    real_model.main([*arguments, "--out", str(out), "--set", "epochs=1", "--precisions", "W4A8", "--methods", "abq"])
    assert not out.exists()
