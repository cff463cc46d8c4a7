"""Limits of one page: generated text per visitor, and the number of queued jobs."""

import time
from collections.abc import Callable, Sequence

import gradio as gr

from app.services import ServiceError
from app.web.access.login import visitor_of
from app.web.access.rates import RateLimit

MAX_COLUMNS = 4
MAX_NEW_TOKENS = 1024
MAX_PROMPT_CHARACTERS = 20_000
TEXTS_PER_MINUTE = 60
MAX_QUEUED_JOBS = 1000


class LimitError(ServiceError):
    """A request exceeds a limit of the page."""


class Limits:
    """Limits of the texts that a page generates. A visitor is an account, or an address if there is no login.

    The command line has no such limits.
    """

    max_queued = MAX_QUEUED_JOBS  # `JobService.submit` counts in the transaction that adds a job

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._texts = RateLimit(TEXTS_PER_MINUTE, 60.0, clock)

    def check_text(self, request: gr.Request | None, columns: Sequence[str], prompt: str, new_tokens: float) -> None:
        """Count one text generation.

        Raises LimitError if it is too large or the visitor made too many.
        """
        if not 1 <= len(columns) <= MAX_COLUMNS:
            raise LimitError(f"{len(columns)} columns were requested. Choose 1 to {MAX_COLUMNS}.")
        if not 1 <= new_tokens <= MAX_NEW_TOKENS:
            raise LimitError(f"{new_tokens:,} new tokens were requested. Choose 1 to {MAX_NEW_TOKENS:,}.")
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise LimitError(f"The prompt has {len(prompt):,} characters. The limit is {MAX_PROMPT_CHARACTERS:,}.")
        if wait := self._texts.hit(visitor_of(request)):
            raise LimitError(
                f"You have generated {TEXTS_PER_MINUTE} texts within a minute. Try again in {int(wait) + 1} seconds."
            )
