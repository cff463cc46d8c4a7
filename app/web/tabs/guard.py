"""Errors that a person can meet become a sentence on the page, never a traceback."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from app.web.tabs import words

EXPECTED = (ValueError, RuntimeError, OSError, MemoryError)


def guarded(outputs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a callback whose first of `outputs` results is the answer line: an error is shown there, the rest stays."""

    def decorate(callback: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(callback)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except EXPECTED as error:
                return [words.problem(error), *[gr.skip()] * (outputs - 1)][: max(outputs, 1)]

        return call

    return decorate
