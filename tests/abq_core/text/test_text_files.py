"""Text files: the split, and files that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from abq_core.models.loading import load_model
from abq_core.text import text_files
from abq_core.text.errors import DataError
from abq_core.text.segments import segments
from abq_core.text.text_files import check_file, file_text


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return load_model(str(tiny_llama)).tokenizer


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "Line 2 .* no field 'text'"),
        ("x.jsonl", b'{"text": "a"}\n[1]\n', "Line 2 .* no field"),
        ("x.jsonl", b"not json\n", "Line 1 .* not JSON"),
        ("x.jsonl", b"", "has 0 tokens: 0 segments"),
        ("x.txt", b"", "has 0 tokens"),
        ("x.txt", b"abc \xff\xfe", "not UTF-8 text: byte 4"),
        ("x.csv", b"a,b", "is not known"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tokenizer: Any, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        segments(str(tmp_path / name), tokenizer, 1, 8, 0, "calibration")


def test_the_first_nine_tenths_are_for_calibration(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("0123456789" * 10)
    assert file_text(text, "calibration").documents == [("0123456789" * 10)[:90]]
    assert file_text(text, "evaluation").documents == ["0123456789"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": str(i), "id": i}) for i in range(20)) + "\n\n")
    assert file_text(rows, "calibration").documents == [str(i) for i in range(18)]
    assert file_text(rows, "evaluation").documents == ["18", "19"]
    assert (
        file_text(rows, "evaluation").revision
        == file_text(rows, "calibration").revision
        != file_text(text, "calibration").revision
    )


def test_missing_and_oversized_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="does not exist"):
        check_file(tmp_path / "absent.txt")
    (tmp_path / "text.txt").write_text("12345")
    monkeypatch.setattr(text_files, "_MAX_FILE_BYTES", 4)
    with pytest.raises(DataError, match="5 bytes; the limit is 4"):
        check_file(tmp_path / "text.txt")


def test_a_line_of_jsonl_may_hold_other_line_ends_and_the_file_a_byte_order_mark(tmp_path: Path) -> None:
    texts = ["first\u2028second\u2029third\x85fourth", "next"]
    lines = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\r\n\r\n")
    assert list(file_text(path, "whole").documents) == texts
