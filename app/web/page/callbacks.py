"""Callbacks of the page: take the selection, and return the components that change."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import wraps
from typing import Any

import gradio as gr
from gradio.blocks import Block

from app.web import html
from app.web.page.selection import Selection

EXPECTED = (ValueError, RuntimeError, OSError, MemoryError)  # shown as a sentence, never as a traceback
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}  # event options
BUSY: dict[str, Any] = {**PRIVATE, "concurrency_limit": 1, "concurrency_id": "model"}  # one model in use at a time

Updates = Mapping[Block, object]


def callback(
    answer: gr.HTML | None = None, tab: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate `(Selection, *values) -> Updates` as a function for Gradio events.

    A generator of Updates works too.
    The event's first input is the selection as JSON. Components that are missing from the updates keep their values.
    answer: shows the sentence of an EXPECTED error; without it the error propagates.  tab: skip the callback unless
    this tab is selected.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def selected(text: str) -> Selection | None:
            selection = Selection.from_json(text)
            return selection if tab in (None, selection.tab) else None

        def shown(error: BaseException) -> Updates:
            if answer is None:
                raise error
            return {answer: html.problem(error)}

        @wraps(function)
        def call(text: str, *values: Any) -> object:
            selection = selected(text)
            if selection is None:
                return gr.skip()
            try:
                return function(selection, *values) or gr.skip()
            except EXPECTED as error:
                return shown(error)

        @wraps(function)
        def stream(text: str, *values: Any) -> Iterator[object]:
            selection = selected(text)
            if selection is None:
                yield gr.skip()
                return
            try:
                with closing(function(selection, *values)) as all_updates:
                    for updates in all_updates:
                        yield updates or gr.skip()
            except EXPECTED as error:
                yield shown(error)

        return stream if inspect.isgeneratorfunction(function) else call

    return decorate
