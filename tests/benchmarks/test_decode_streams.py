"""The benchmark of several streams, on a small model; GGUF columns where xllamacpp is installed."""

import json
from pathlib import Path

import pytest
from decode_streams import RESULT, main, table
from family_cases import family_model
from gguf_cases import write_gguf
from stream_column import TOKENS, in_turn, prompts, together

from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import load_model
from abq_core.precision import Precision


def test_streams_are_timed_and_put_into_the_page(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "streams.json", tmp_path / "page.md"
    page.write_text("before\n<!-- streams -->\nold\n<!-- end of streams -->\nafter\n", "utf-8")
    asked = ["--streams", "1", "3", "--rounds", "2", "--out", str(out), "--markdown", str(page)]
    main([str(tiny_llama), "--columns", "W4A8h8", *asked])
    result = json.loads(out.read_text("utf-8"))
    assert [row["engine"] for row in result["columns"]] == ["abq, together", "abq, in turn"]
    for row in result["columns"]:
        ((one, three),) = row["rounds"]
        assert one > 0 and three > 0
    written = page.read_text("utf-8")
    assert "| 1 stream | 3 streams |" in written and "old" not in written and written.endswith("after\n")
    assert table(result) in written and table(result) in capsys.readouterr().out


def test_both_ways_take_time_for_every_stream(tiny_llama: Path) -> None:
    model = rounded_model(load_model(str(tiny_llama)), Precision.parse("W4A8"), "packed")
    ids = prompts(3)
    assert len({tuple(row) for row in ids.tolist()}) == 3 and int(ids.max()) < 300
    calls = []
    hook = model.model.get_output_embeddings().register_forward_hook(lambda m, a, y: calls.append(y.numel()))
    assert together(model, ids) > 0 and in_turn(model, ids) > 0
    hook.remove()
    assert sum(calls) == 2 * 3 * 300 * (1 + TOKENS)


def test_gguf_files_are_decoded_side_by_side(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    file, out = tmp_path / "tiny.gguf", tmp_path / "streams.json"
    write_gguf(family_model("llama"), tiny_llama / "tokenizer.json", file, "Q8_0")
    main(
        [
            str(tiny_llama),
            "--gguf",
            str(file),
            "--columns",
            "W8A8",
            "--streams",
            "2",
            "--rounds",
            "2",
            "--out",
            str(out),
        ]
    )
    peer = json.loads(out.read_text("utf-8"))["columns"][-1]
    assert peer["engine"] == "llama.cpp" and peer["weights"] == file.stem and peer["rounds"][0][0] > 0


def test_the_page_matches_the_stored_results() -> None:
    page = Path(__file__).parents[2] / "docs" / "decode-peers.md"
    assert table(json.loads(RESULT.read_text("utf-8"))) in page.read_text("utf-8")
