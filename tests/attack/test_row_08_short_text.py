"""A text that is too short for its evaluation is refused before a block is worked on, or read completely."""

import json
from pathlib import Path

import pytest
from attack_cases import assert_sentence
from inline_commands import InlineCommand, inline_commands

pytestmark = pytest.mark.attack(row=8)


@pytest.fixture
def inline(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InlineCommand:
    return inline_commands(data, monkeypatch, capsys)


WORDS = ("--precision", "W4A4", "--method", "rtn", "--seq-len", "16", "--segments", "2")


def rows_file(folder: Path, evaluation: str) -> str:
    """A .jsonl file whose tenth row is the evaluation text."""
    file = folder / "rows.jsonl"
    rows = ["The module provides functions to read and write files. " * 20] * 9 + [evaluation]
    file.write_text("\n".join(json.dumps({"text": row}) for row in rows))
    return str(file)


def test_a_text_without_evaluation_text_is_not_queued(inline: InlineCommand, tiny_llama: Path, tmp_path: Path) -> None:
    text = rows_file(tmp_path, "1234567")
    assert_sentence(inline("calibrate", str(tiny_llama), "--data", text, *WORDS), "evaluation text", "7 tokens")
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []


def test_a_text_without_enough_calibration_text_is_not_queued(
    inline: InlineCommand, tiny_llama: Path, tmp_path: Path
) -> None:
    file = tmp_path / "short.txt"
    file.write_text("1234567890" * 4)
    done = inline("calibrate", str(tiny_llama), "--data", str(file), *WORDS[:-1], "3")
    assert_sentence(done, "calibration text", "36 tokens: 2 segments of 16, but 3 were requested")


def test_evaluation_reads_what_a_short_text_has_and_says_so(
    inline: InlineCommand, tiny_llama: Path, tmp_path: Path
) -> None:
    text = rows_file(tmp_path, "1234567890" * 5)
    done = inline("calibrate", str(tiny_llama), "--data", text, *WORDS, "--wait", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["run"]
    log = inline("jobs", "show", run).stdout
    assert "The evaluation text is short: 2 segments of 25 tokens are read" in log
    measured = inline("eval", run, "--data", text, "--seq-len", "64", "--json")
    assert "2 segments of 25 tokens were read" in measured.stderr
    assert [json.loads(measured.stdout)[key] for key in ("segments", "seq_len")] == [2, 25]
