"""A tokenizer that panics, or names a token without an embedding: a named error for every request, before a job."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from app_cases import settings_in, work_on
from attack_cases import assert_sentence
from inline_commands import InlineCommand, inline_commands
from page_process import call, page_call, page_process, result
from served import served
from tokenizer_cases import replace_step, split_on, with_tokenizer

from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.services import open_services

pytestmark = [
    pytest.mark.attack(row=14),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),  # gradio sets it
]


@pytest.fixture
def inline(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InlineCommand:
    return inline_commands(data, monkeypatch, capsys)


def beyond_the_table(content: dict[str, Any]) -> None:
    """One word less, and one with another number: as many tokens as before."""
    merges = content["model"]["merges"]
    word = "".join(merges.pop())
    del content["model"]["vocab"][word]
    content["model"]["vocab"]["<long>"] = 5000


def frame_beyond_the_table(content: dict[str, Any]) -> None:
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<x>": {"id": "<x>", "ids": [5000], "tokens": ["<x>"]}},
    }


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "backtracking": (lambda content: content.update(pre_tokenizer=split_on(r"(a+)+(a+)+(a+)+b")), "tokenizer.json"),
    "bad rule": (lambda content: content.update(normalizer=replace_step({"Regex": "(?<name>"}, "")), "tokenizer.json"),
    "beyond the table": (beyond_the_table, "5,001 tokens but 300 embeddings"),
    "frame": (frame_beyond_the_table, "5,001 tokens but 300 embeddings"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_job_with_such_a_tokenizer_is_not_queued(
    name: str, inline: InlineCommand, tiny_llama: Path, tmp_path: Path
) -> None:
    change, words = HOSTILE[name]
    folder = with_tokenizer(tiny_llama, tmp_path / "model", change)
    assert_sentence(
        inline("calibrate", str(folder), "--precision", "W4A4", "--method", "rtn", "--seq-len", "16"), words
    )
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []
    assert_sentence(inline("generate", str(folder), "--prompt", "a" * 400), words)


class Panic(BaseException):
    """What a Rust library raises when its code fails: no Exception."""


def test_a_panic_in_a_job_is_its_reason(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The module provides functions to read and write files. " * 200)
    services = open_services(settings_in(tmp_path / "data"))
    precision = Precision.parse("W4A4")
    spec = CalibrationSpec(str(tiny_llama), precision, "rtn", data=str(text), segments=2, seq_len=16)

    def panic(*_: object) -> None:
        raise Panic("retry-limit-in-match over")

    monkeypatch.setattr("app.jobs.calibration_job.read_text", panic)
    job = work_on(services, services.jobs.submit(spec))
    assert job.state == "failed" and job.attempts == 1 and "failed with Panic" in (job.error or "")


def test_a_panic_on_one_text_is_an_answer_of_the_page(
    tiny_llama: Path, tmp_path: Path, tried: Callable[[int], None]
) -> None:
    rule, text = split_on(r"(q+)+(q+)+(q+)+Z"), tmp_path / "text.txt"
    text.write_text("q" * 20_000)
    folder = with_tokenizer(tiny_llama, tmp_path / "model", lambda content: content.update(pre_tokenizer=rule))
    model, selection = str(folder), json.dumps({"model": str(folder), "precision": "W4A4", "tab": "generate"})
    written = [selection, None, "Continue a text", "q" * 900, "", "", ["full", "W4A4"], False, 8, 0.0, 0]
    with page_process(tmp_path / "data", "--allow", str(tmp_path)) as page, page.client() as client:
        answers = [
            call(client, "generate", ["full"], "q" * 900, 4, 0.0, 0, model),
            call(client, "evaluate", model, str(text), 2, 16),
            json.dumps(page_call(client, "write", written)),
        ]
        assert all("cannot read this text" in answer for answer in answers), answers
        tried(len(answers))
        assert result(call(client, "jobs")) == []
        assert "Traceback" not in page.output.read_text()


def test_a_panic_anywhere_in_a_request_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    services = open_services(settings_in(tmp_path / "data"))

    def panic(*_: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr(services.models, "names", panic)
    with served(services) as address, httpx.Client(base_url=address, timeout=120) as client:
        assert "failed unexpectedly (Panic)" in call(client, "models")
        shown = page_call(client, "open_page", ["{}"])
        assert not shown["success"] and "failed unexpectedly (Panic)" in shown["output"]["error"]
    assert {"models failed.", "open_page failed."} <= {record.getMessage() for record in caplog.records}


def test_a_panic_on_one_text_is_an_answer(inline: InlineCommand, tiny_llama: Path, tmp_path: Path) -> None:
    rule = split_on(r"(q+)+(q+)+(q+)+Z")
    folder = with_tokenizer(tiny_llama, tmp_path / "model", lambda content: content.update(pre_tokenizer=rule))
    assert_sentence(inline("generate", str(folder), "--prompt", "q" * 900), "tokenizer", "cannot read this text")
