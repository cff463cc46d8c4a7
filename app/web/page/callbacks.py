"""Callbacks of the page: take the selection, and return the components that change."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import wraps
from typing import Any

import gradio as gr
from gradio.blocks import Block

from app.web import html
from app.web.failures import message_of, page_error
from app.web.page.selection import Selection

# Options of events. The values of widgets are checked in `access/page_functions.py`.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
FOLLOW: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last"}  # the last of several events counts
BUSY: dict[str, Any] = {**PRIVATE, "concurrency_limit": 1, "concurrency_id": "model"}  # one model in use at a time

Updates = Mapping[Block, object]


def event(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function for Gradio events that has no selection: its failures become a notice on the page."""

    @wraps(function)
    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except BaseException as error:
            raise page_error(message_of(error, function)) from error

    return call


def callback(
    answer: gr.HTML | None = None, tab: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate `(Selection, *values) -> Updates` as a function for Gradio events.

    A generator of Updates works too.
    The event's first input is the selection as JSON. Components that are missing from the updates keep their values.
    answer: shows the sentence of an error; without it the page shows a notice.  tab: skip the callback unless this tab
    is selected.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        def selected(text: str) -> Selection | None:
            selection = Selection.from_json(text)
            return selection if tab in (None, selection.tab) else None

        def shown(error: BaseException) -> Updates:
            message = message_of(error, function)
            if answer is None:
                raise page_error(message) from error
            return {answer: html.problem(message)}

        @wraps(function)
        def call(text: str, *values: Any) -> object:
            selection = selected(text)
            if selection is None:
                return gr.skip()
            try:
                return function(selection, *values) or gr.skip()
            except BaseException as error:  # a panic of a library is no Exception, and would leave no answer
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
            except BaseException as error:
                yield shown(error)

        return stream if inspect.isgeneratorfunction(function) else call

    return decorate
