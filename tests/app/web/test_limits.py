"""Limits of a visitor's requests for text and of the queue."""

import pytest

from app.services import Services
from app.web.limits import MAX_NEW_TOKENS, MAX_PROMPT_CHARACTERS, MAX_QUEUED_JOBS, TEXTS_PER_MINUTE, LimitError, Limits


def test_text_is_limited_in_length_and_rate(services: Services) -> None:
    time = [0.0]
    limits = Limits(services.storage.jobs, lambda: time[0])
    for columns, prompt, tokens, message in (
        ([], "a", 8, "0 columns"),
        (["full"] * 5, "a", 8, "5 columns"),
        (["full"], "a" * (MAX_PROMPT_CHARACTERS + 1), 8, "20,001 characters"),
        (["full"], "a", MAX_NEW_TOKENS + 1, "1,025 new tokens"),
        (["full"], "a", float("nan"), "nan new tokens"),
    ):
        with pytest.raises(LimitError, match=message):
            limits.check_text(None, columns, prompt, tokens)
    for _ in range(TEXTS_PER_MINUTE):
        limits.check_text(None, ["full"], "a", 8)
    with pytest.raises(LimitError, match="Try again in 61 seconds"):
        limits.check_text(None, ["full"], "a", 8)
    time[0] = 60.0
    limits.check_text(None, ["full"], "a", 8)


def test_the_queue_is_limited(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.storage.jobs, "counts", lambda: {"queued": MAX_QUEUED_JOBS - 1, "failed": 9999})
    Limits(services.storage.jobs).check_queue()
    with pytest.raises(LimitError, match="999 jobs are queued"):
        Limits(services.storage.jobs).check_queue(2)
