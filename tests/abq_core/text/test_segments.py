"""Segments.

Equal for equal seeds, disjoint, from the right split, and read again from their record.
"""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizer_cases import with_prefix

from abq_core.builtin.corpus import documents
from abq_core.models.loading import load_model
from abq_core.text.errors import DataError, ShortTextError
from abq_core.text.records import TextRecord
from abq_core.text.segments import (
    check_tokens,
    evaluation_segments,
    recorded_segments,
    segments,
    segments_from_record,
)


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
    """A few documents per split: tokenizing the whole text takes seconds."""
    monkeypatch.setattr("abq_core.text.sources.documents", lambda split: documents(split)[:12])


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
    for seed in range(8):  # 9 documents of 7 tokens and 8 separators: 8 windows, and the last document is left over
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
        assert sorted(found.tolist()) == whole  # every window exactly once
        with pytest.raises(DataError, match=f"{available} segments of 50, but {available + 1} were requested"):
            segments(str(text_file), tokenizer, available + 1, 50, 0, split)


def test_a_jsonl_file_is_split_by_lines(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"{'ab'[i >= 18]}" * 30, "id": i}) for i in range(20)) + "\n\n")
    calibration = tokenizer.decode(segments(str(file), tokenizer, 4, 8, 0, "calibration").flatten())
    evaluation = tokenizer.decode(segments(str(file), tokenizer, 2, 8, 0, "evaluation").flatten())
    assert "b" not in calibration.replace("<|endoftext|>", "") and "a" in calibration
    assert "a" not in evaluation.replace("<|endoftext|>", "") and "b" in evaluation


def test_impossible_requests_are_named(tokenizer: Any, text_file: Path, tmp_path: Path) -> None:
    for count, seq_len in ((0, 8), (-1, 8), (1, 1)):
        with pytest.raises(DataError, match="too few"):
            segments(str(text_file), tokenizer, count, seq_len, 0, "calibration")
    with pytest.raises(DataError, match="context of 128"):
        segments(str(text_file), tokenizer, 1, 129, 0, "calibration")
    with pytest.raises(DataError, match="does not exist"):
        segments(str(tmp_path / "absent.txt"), tokenizer, 1, 8, 0, "calibration")
    with pytest.raises(DataError, match="is not known"):
        segments("wikitext103", tokenizer, 1, 8, 0, "calibration")
    with pytest.raises(DataError, match="split 'train'"):
        segments(str(text_file), tokenizer, 1, 8, 0, "train")  # type: ignore[arg-type]


def test_equal_calls_give_equal_records(tokenizer: Any, text_file: Path) -> None:
    ids, record = recorded_segments(str(text_file), tokenizer, 5, 16, 7, "calibration")
    again, same = recorded_segments(str(text_file), tokenizer, 5, 16, 7, "calibration")
    assert record == same and torch.equal(ids, again)
    assert (record.source, record.split, record.seed, record.documents) == (str(text_file), "calibration", 7, 1)
    assert len(set(record.windows)) == 5 and max(record.windows) < record.tokens // 16
    for count, seed, split in ((4, 7, "calibration"), (5, 8, "calibration"), (5, 7, "evaluation")):
        other = recorded_segments(str(text_file), tokenizer, count, 16, seed, split)[1]
        assert other.sha256 != record.sha256


@pytest.mark.usefixtures("small_builtin")
def test_segments_are_read_again_from_their_record(tokenizer: Any, text_file: Path) -> None:
    for source in ("builtin", "builtin-train", str(text_file)):
        ids, record = recorded_segments(source, tokenizer, 4, 32, 3, "calibration")
        written = json.loads(json.dumps(record.to_dict()))
        assert torch.equal(segments_from_record(TextRecord.from_dict(written), tokenizer), ids)
        stream = record.tokens // 32 * 32
        assert ids.shape == (4, 32) and stream >= 4 * 32


def test_the_record_of_a_changed_text_is_refused(tokenizer: Any, text_file: Path) -> None:
    _, record = recorded_segments(str(text_file), tokenizer, 4, 32, 3, "calibration")
    text_file.write_text("x" + text_file.read_text())
    with pytest.raises(DataError, match="has changed: its segments were recorded"):
        segments_from_record(record, tokenizer)


def test_the_sha256_is_of_the_ids(tokenizer: Any, text_file: Path) -> None:
    ids, record = recorded_segments(str(text_file), tokenizer, 2, 8, 0, "calibration")
    data = b"".join(int(token).to_bytes(8, "little") for token in ids.flatten())
    assert record.sha256 == hashlib.sha256(data).hexdigest()


def test_a_short_text_says_how_many_segments_it_has(tokenizer: Any, text_file: Path) -> None:
    with pytest.raises(ShortTextError) as caught:
        segments(str(text_file), tokenizer, 10_000, 64, 0, "calibration")
    available = caught.value.available
    assert len(segments(str(text_file), tokenizer, available, 64, 0, "calibration")) == available
    again = pickle.loads(pickle.dumps(caught.value))  # a benchmark's process sends it to another one
    assert str(again) == str(caught.value) and again.available == caught.value.available


@pytest.fixture(scope="module", params=[(299,), (7, 299)])
def adding(request: pytest.FixtureRequest, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that puts tokens in front of a text."""
    folder = with_prefix(tiny_llama, tmp_path_factory.mktemp("adding") / "model", request.param)
    return load_model(str(folder)).tokenizer, request.param


def test_every_window_begins_as_the_tokenizer_lets_a_text_begin(tokenizer: Any, adding: Any, text_file: Path) -> None:
    adds, prefix = adding
    ids, record = recorded_segments(str(text_file), adds, 6, 16, 7, "calibration")
    body, plain = recorded_segments(str(text_file), tokenizer, 6, 16 - len(prefix), 7, "calibration")
    assert ids.shape == (6, 16) and torch.equal(ids[:, len(prefix) :], body)
    assert ids[:, : len(prefix)].tolist() == [list(prefix)] * 6
    assert (record.prefix, plain.prefix) == (prefix, ()) and record.windows == plain.windows
    assert record.tokens == plain.tokens, "the prefix is no text"
    assert torch.equal(segments_from_record(TextRecord.from_dict(record.to_dict()), adds), ids)


def test_the_record_of_an_earlier_version_is_read_without_prefix(tokenizer: Any, adding: Any, text_file: Path) -> None:
    ids, record = recorded_segments(str(text_file), tokenizer, 6, 16, 7, "calibration")
    stored = {name: value for name, value in record.to_dict().items() if name != "prefix"}
    assert torch.equal(segments_from_record(TextRecord.from_dict(stored), adding[0]), ids)


def test_the_prefix_takes_room_in_a_window_and_none_of_the_text(adding: Any, text_file: Path) -> None:
    adds, prefix = adding
    body = 64 - len(prefix)
    available = recorded_segments(str(text_file), adds, 1, 64, 0, "calibration")[1].tokens // body
    check_tokens(str(text_file), adds, available, 64, "calibration")
    assert len(segments(str(text_file), adds, available, 64, 0, "calibration")) == available
    with pytest.raises(ShortTextError, match=f"{available} segments of {body}"):
        check_tokens(str(text_file), adds, available + 1, 64, "calibration")
    shortest = max(len(prefix) + 1, 2)
    assert segments(str(text_file), adds, 1, shortest, 0, "calibration").shape == (1, shortest)
    with pytest.raises(DataError, match=r"no text after the 2 tokens|too few"):
        segments(str(text_file), adds, 1, shortest - 1, 0, "calibration")


def test_a_short_evaluation_text_is_read_completely_with_a_prefix(adding: Any, tmp_path: Path) -> None:
    file, (adds, prefix) = tmp_path / "short.txt", adding
    file.write_text(" ".join(str(i) for i in range(130)))
    ids, record = evaluation_segments(str(file), adds, 32, 100, 0)
    assert len(ids) == 2 and ids.shape[1] == record.tokens // 2 + len(prefix)
