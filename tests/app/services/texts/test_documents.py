"""Documents: KL per token for several columns, bounded, and only of texts that may be read."""

from pathlib import Path

import pytest

from abq_core.evaluation.perplexity import EvaluationError
from abq_core.text.errors import DataError
from app.services import ServiceError, Services
from app.services.registry import ModelRegistry
from app.services.sources import Sources
from app.services.texts import documents
from app.services.texts.documents import DocumentService
from storage.jobs import Job

TEXT = "The module reads files. It writes \N{GRINNING FACE} lines, one at a time. "


def test_columns_are_added_one_by_one(finished: tuple[Services, Job], tmp_path: Path) -> None:
    services, job = finished
    file = tmp_path / "own.txt"
    file.write_text(TEXT * 3, "utf-8")
    model = str(job.spec["model"])
    columns = ["W2A8", job.run_id]
    first, last = services.documents.measure(columns, str(file), model)
    assert list(first.rows) == ["W2A8"] and list(last.rows) == columns
    assert "".join(last.tokens) == TEXT * 3 and last.is_whole
    for rows in last.rows.values():
        assert (rows["kl"] > 0).all() and rows["position"].iloc[-1] == len(last.tokens) - 1
    assert last.rows["W2A8"]["kl"].mean() > last.rows[job.run_id]["kl"].mean()
    tokenizer = services.registry.full(model).tokenizer
    row = last.rows["W2A8"].iloc[5]
    assert row["full_top_text"] == tokenizer.decode([int(row["full_top"])])


def test_a_long_text_is_read_up_to_a_number_of_tokens(
    services: Services, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MOST_TOKENS", 24)
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "The module reads"}\n' * 500, "utf-8")
    (found,) = services.documents.measure(["W4A8"], str(file), str(tiny_llama))
    assert len(found.tokens) == 24 and not found.is_whole
    assert "".join(found.tokens).startswith("The module reads\n\nThe module")
    (named,) = services.documents.measure(["W4A8"], "builtin", str(tiny_llama))
    assert len(named.tokens) == 24 and not named.is_whole


def test_a_text_that_is_empty_missing_or_forbidden_is_refused(
    services: Services, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("", "utf-8")
    with pytest.raises(EvaluationError, match="has 0 tokens"):
        next(services.documents.measure(["W4A8"], str(tmp_path / "empty.txt"), str(tiny_llama)))
    with pytest.raises(DataError):
        next(services.documents.measure(["W4A8"], str(tmp_path / "none.txt"), str(tiny_llama)))

    class Closed(Sources):
        def check_text(self, source: str, account: str | None = None) -> None:
            raise ServiceError(f"{account} may not read {source}.")

    closed = DocumentService(ModelRegistry(services.settings, services.storage.runs), Closed())
    with pytest.raises(ServiceError, match="ann may not read x"):
        next(closed.measure(["W4A8"], "x", str(tiny_llama), "ann"))
