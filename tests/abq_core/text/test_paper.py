"""WikiText-2 and C4 as the papers read them: rows, joining, limits, windows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizer_cases import with_prefix

from abq_core.models.loading import load_model
from abq_core.text.errors import DataError, ShortTextError
from abq_core.text.paper import paper_segments
from abq_core.text.segments import segments_from_record


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that adds the tokens 299 in front and 7 behind a text."""
    return load_model(str(with_prefix(tiny_llama, tmp_path_factory.mktemp("adds") / "model", [299], [7]))).tokenizer


def test_a_text_file_has_one_row_per_line_and_blank_lines_between_rows(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "wiki.txt"
    file.write_text(" = Files = \n \n The module reads files .\x0b\u2028 It writes . \n" * 20)
    expected = "\n\n".join([" = Files = \n", "", " The module reads files .\x0b\u2028 It writes . \n"] * 20)
    stream = tokenizer(expected)["input_ids"]
    assert (stream[0], stream[-1]) == (299, 7)
    ids, record = paper_segments(str(file), tokenizer, 32, "whole")
    assert ids.flatten().tolist() == stream[: len(stream) // 32 * 32]
    assert (record.split, record.documents, record.tokens) == ("whole", 60, len(stream) - 1)
    assert record.windows == tuple(range(len(stream) // 32))
    assert torch.equal(segments_from_record(record, tokenizer), ids)
    held_out = paper_segments(str(file), tokenizer, 32, "evaluation")[0]
    assert 2 <= len(held_out) < len(ids)


def test_documents_are_joined_by_spaces_up_to_the_limits_of_c4(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c4.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"document {number}\n"}) for number in range(1200)))
    stream = tokenizer(" ".join(f"document {number}\n" for number in range(1100)))["input_ids"]
    ids, record = paper_segments(str(file), tokenizer, 16, "whole")
    assert record.documents == 1100 and record.tokens == len(stream) - 1
    assert len(ids) == 256 < len(stream) // 16 and ids.flatten().tolist() == stream[: 256 * 16]
    asked = []

    def rows(source: str, name: str, revision: str | None, split: str, characters: float, documents: int) -> Any:
        asked.append((name, split, documents))
        return text

    from abq_core.text.documents import Text

    text = Text([f"document {number}\n" for number in range(1100)], "c4@abc", "abc")
    monkeypatch.setattr("abq_core.text.sources.hub_text", rows)
    assert torch.equal(paper_segments("c4", tokenizer, 16, "evaluation")[0], ids)
    assert asked == [("c4", "evaluation", 1100)]


def test_wikitext2_is_read_as_its_one_joined_document(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from abq_core.text.documents import Text

    joined = "\n\n".join([" = Files = \n", "", " The module reads files . \n"] * 20)
    monkeypatch.setattr("abq_core.text.sources.hub_text", lambda *request: Text([joined], "wikitext2@abc", "abc"))
    ids, _ = paper_segments("wikitext2", tokenizer, 16, "evaluation")
    assert ids.flatten().tolist() == tokenizer(joined)["input_ids"][: ids.numel()]


def test_impossible_requests_are_named(tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("The module reads files. " * 4)
    for seq_len in (1, 129):
        with pytest.raises(DataError, match="model's context of 128: use 2 to 128"):
            paper_segments(str(file), tokenizer, seq_len, "whole")
    with pytest.raises(ShortTextError, match=r"windows of 100, but the paper's protocol needs at least 2.*--seq-len"):
        paper_segments(str(file), tokenizer, 100, "whole")
