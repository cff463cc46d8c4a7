"""Generation: columns of full precision, a precision and a run side by side."""

import pytest

from abq_core.inference.generate import Finished, PromptError, Token
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
