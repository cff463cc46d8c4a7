"""Limits of a visitor's requests for text."""

import pytest

from app.web.limits import MAX_NEW_TOKENS, MAX_PROMPT_CHARACTERS, TEXTS_PER_MINUTE, LimitError, Limits


def test_text_is_limited_in_length_and_rate() -> None:
    time = [0.0]
    limits = Limits(lambda: time[0])
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
