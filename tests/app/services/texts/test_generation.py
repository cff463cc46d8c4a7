"""Generation: columns of full precision, a precision and a run side by side."""

from pathlib import Path

import pytest
from tiny_tokenizers import chat_folder

from abq_core.inference.generate import Finished, PromptError, Token
from abq_core.models.errors import ChatTemplateError
from app.services import Services
from storage.jobs import Job


def test_columns_stream_in_turn_with_their_distance_to_full_precision(finished: tuple[Services, Job]) -> None:
    services, job = finished
    columns = ["full", job.run_id, "W8A8"]
    events = list(services.generation.generate(columns, "The module", 5, model=services.runs.get(job.run_id).model))
    tokens = [event for event in events if isinstance(event, Token)]
    assert [token.column for token in tokens[:3]] == columns
    assert all(token.kl == 0 for token in tokens if token.column == "full")
    assert all(token.kl > 0 for token in tokens if token.column == job.run_id)
    sizes = {event.column: event.weight_bytes for event in events if isinstance(event, Finished)}
    assert sizes[job.run_id] < sizes["W8A8"] < sizes["full"]


def test_a_prompt_that_exceeds_the_context_is_refused(finished: tuple[Services, Job]) -> None:
    services, job = finished
    with pytest.raises(PromptError):
        services.generation.generate(["full"], "word " * 500, 8, model=services.runs.get(job.run_id).model)


def test_a_conversation_is_answered_by_every_column(services: Services, tmp_path: Path, tiny_llama: Path) -> None:
    model = str(chat_folder("llama", tmp_path / "chat"))
    hello = [{"role": "user", "content": "Hello"}]
    longer = [*hello, {"role": "assistant", "content": "Hi"}, *hello]
    events = list(services.generation.generate(["full", "W8A8"], {"full": hello, "W8A8": longer}, 3, model=model))
    assert {event.column for event in events if isinstance(event, Token)} == {"full", "W8A8"}
    assert services.models.can_chat(model)
    assert not services.models.can_chat(str(tiny_llama)) and not services.models.can_chat("builtin")
    with pytest.raises(ChatTemplateError, match="no chat template"):
        services.generation.generate(["full"], hello, 3, model=str(tiny_llama))
