"""Segments: the same for the same seed, disjoint, from the right split; and clear errors."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from abq_core.builtin.corpus import documents
from abq_core.data import DataError, segments
from abq_core.models import load_model


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return load_model(str(tiny_llama)).tokenizer


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "numbers.txt"
    file.write_text(" ".join(str(i) for i in range(2000)))
    return file


@pytest.fixture
def small_builtin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few documents a split: the whole text takes seconds to tokenize."""
    monkeypatch.setattr("abq_core.data.documents", lambda split: documents(split)[:12])


@pytest.mark.usefixtures("small_builtin")
def test_builtin_segments_are_repeatable_and_change_with_the_seed(tokenizer: Any) -> None:
    first = segments("builtin", tokenizer, 6, 64, 0, "calibration")
    assert first.shape == (6, 64) and first.dtype == torch.int64
    assert torch.equal(first, segments("builtin", tokenizer, 6, 64, 0, "calibration"))
    assert not torch.equal(first, segments("builtin", tokenizer, 6, 64, 1, "calibration"))
    assert len({tuple(s.tolist()) for s in segments("builtin", tokenizer, 6, 64, 0, "calibration")}) == 6


@pytest.mark.usefixtures("small_builtin")
def test_builtin_segments_are_text_of_their_split(tokenizer: Any) -> None:
    for split in ("calibration", "evaluation"):
        texts = [document.text for document in documents(split)[:12]]
        for segment in segments("builtin", tokenizer, 8, 128, 3, split):
            for piece in tokenizer.decode(segment).split("<|endoftext|>"):
                assert any(piece.strip("\ufffd") in text for text in texts)


def test_documents_are_shuffled_with_an_end_token_between_two(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "letters.jsonl"
    file.write_text("\n".join(json.dumps({"text": letter * 7}) for letter in "abcdefghij"))
    last = set()
    for seed in range(8):  # 9 documents of 7 tokens with 8 ends between them: 8 windows, and the last document over
        found = segments(str(file), tokenizer, 8, 8, seed, "calibration")
        assert all(segment.tolist().index(0) == 7 for segment in found)
        letters = set(tokenizer.decode(found.flatten()).replace("<|endoftext|>", ""))
        assert len(letters) == 8 and letters < set("abcdefghi")
        last |= set("abcdefghi") - letters
    assert len(last) > 1


def test_a_text_file_is_split_nine_to_one(tokenizer: Any, text_file: Path) -> None:
    text = text_file.read_text()
    cut = int(0.9 * len(text))
    for split, part in (("calibration", text[:cut]), ("evaluation", text[cut:])):
        ids = tokenizer(part, add_special_tokens=False)["input_ids"]
        available = len(ids) // 50
        found = segments(str(text_file), tokenizer, available, 50, 0, split)
        whole = sorted(torch.tensor(ids[: available * 50]).view(-1, 50).tolist())
        assert sorted(found.tolist()) == whole  # every window once, none twice
        with pytest.raises(DataError, match=f"{available} segments of 50, but {available + 1} are asked"):
            segments(str(text_file), tokenizer, available + 1, 50, 0, split)


def test_a_jsonl_file_is_split_by_lines(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"{'ab'[i >= 18]}" * 30, "id": i}) for i in range(20)) + "\n\n")
    calibration = tokenizer.decode(segments(str(file), tokenizer, 4, 8, 0, "calibration").flatten())
    evaluation = tokenizer.decode(segments(str(file), tokenizer, 2, 8, 0, "evaluation").flatten())
    assert "b" not in calibration.replace("<|endoftext|>", "") and "a" in calibration
    assert "a" not in evaluation.replace("<|endoftext|>", "") and "b" in evaluation


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "Line 2 .* no field 'text'"),
        ("x.jsonl", b'{"text": "a"}\n[1]\n', "Line 2 .* no field"),
        ("x.jsonl", b"not json\n", "Line 1 .* not JSON"),
        ("x.jsonl", b"", "has 0 tokens: 0 segments"),
        ("x.txt", b"", "has 0 tokens"),
        ("x.txt", b"abc \xff\xfe", "not UTF-8 text: byte 4"),
        ("x.csv", b"a,b", "no known data"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tokenizer: Any, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        segments(str(tmp_path / name), tokenizer, 1, 8, 0, "calibration")


def test_what_makes_no_sense_is_named(tokenizer: Any, text_file: Path, tmp_path: Path) -> None:
    for count, seq_len in ((0, 8), (-1, 8), (1, 1)):
        with pytest.raises(DataError, match="make no sense"):
            segments(str(text_file), tokenizer, count, seq_len, 0, "calibration")
    with pytest.raises(DataError, match="context of 128"):
        segments(str(text_file), tokenizer, 1, 129, 0, "calibration")
    with pytest.raises(DataError, match="no file"):
        segments(str(tmp_path / "absent.txt"), tokenizer, 1, 8, 0, "calibration")
    with pytest.raises(DataError, match="no known data"):
        segments("wikitext103", tokenizer, 1, 8, 0, "calibration")
    with pytest.raises(DataError, match="split 'train'"):
        segments(str(text_file), tokenizer, 1, 8, 0, "train")  # type: ignore[arg-type]


def fake_datasets(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    module = ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_wikitext_is_one_document_of_the_right_split(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str, split: str) -> dict[str, list[str]]:
        asked.append((name, config, split))
        return {"text": ["first", "second"] * 20}

    fake_datasets(monkeypatch, load)
    found = segments("wikitext2", tokenizer, 2, 16, 0, "evaluation")
    assert segments("wikitext2", tokenizer, 1, 16, 0, "calibration").shape == (1, 16)
    assert [split for *_, split in asked] == ["test", "train"]
    assert "first\n\nsecond" in tokenizer.decode(found.flatten())
    assert 0 not in found


def test_c4_reads_no_more_than_it_needs(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def rows() -> Any:
        for number in range(10_000):
            read.append(number)
            yield {"text": "some web page. " * 20}

    fake_datasets(monkeypatch, lambda *_, **__: rows())
    assert segments("c4", tokenizer, 3, 32, 0, "calibration").shape == (3, 32)
    assert len(read) == -(-3 * 32 * 16 // 300)


def test_no_network_names_what_works(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    fake_datasets(monkeypatch, offline)
    for source in ("wikitext2", "c4"):
        with pytest.raises(DataError, match=rf"'{source}' .*ConnectionError.* Use 'builtin'"):
            segments(source, tokenizer, 1, 8, 0, "calibration")
