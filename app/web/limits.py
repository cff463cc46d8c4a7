"""What one visitor may ask for: so much text so often, and so many waiting jobs. Not for the command line."""

import time
from collections.abc import Callable, Sequence

import gradio as gr

from app.services import Explorer, ServiceError
from app.web.access.login import visitor_of
from app.web.access.rates import Rate

MOST_COLUMNS = 4
MOST_NEW_TOKENS = 1024
MOST_CHARACTERS = 20_000
TEXTS_A_MINUTE = 60
MOST_QUEUED = 1000


class LimitError(ServiceError):
    """More was asked for than one visitor gets."""


class Limits:
    """The limits of one page. Counts for each visitor: account, or else address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._texts = Rate(TEXTS_A_MINUTE, 60.0, clock)

    def check_text(self, request: gr.Request | None, columns: Sequence[str], prompt: str, new_tokens: float) -> None:
        """Count one request for text. Raises LimitError where it is too long or too soon."""
        if not 1 <= len(columns) <= MOST_COLUMNS:
            raise LimitError(f"{len(columns)} columns were asked for: choose 1 to {MOST_COLUMNS}.")
        if not 1 <= new_tokens <= MOST_NEW_TOKENS:
            raise LimitError(f"{new_tokens:,} new tokens were asked for: use 1 to {MOST_NEW_TOKENS:,}.")
        if len(prompt) > MOST_CHARACTERS:
            raise LimitError(f"The prompt has {len(prompt):,} characters: at most {MOST_CHARACTERS:,} are read.")
        if wait := self._texts.take(visitor_of(request)):
            raise LimitError(f"Those were {TEXTS_A_MINUTE} texts within a minute. Wait {int(wait) + 1} seconds.")

    def check_queue(self, explorer: Explorer, new: int = 1) -> None:
        """Raises LimitError where so many new jobs would make the queue too long."""
        queued = explorer.jobs.counts().get("queued", 0)
        if queued + new > MOST_QUEUED:
            raise LimitError(
                f"{queued:,} jobs wait already: at most {MOST_QUEUED:,} may. Wait until some have run, or cancel some."
            )
