"""Callbacks.

The selection is parsed, other tabs are skipped, errors become a sentence, missing components stay.
"""

from collections.abc import Iterator

import gradio as gr
import pytest

from app.web.page.callbacks import Updates, callback
from app.web.page.selection import Selection

EXPLORE = Selection(precision="W4A4").to_json()
GENERATE = Selection(tab="generate").to_json()


@pytest.fixture
def answer() -> gr.HTML:
    return gr.HTML("")


def test_the_selection_is_parsed_and_updates_are_returned(answer: gr.HTML) -> None:
    @callback(answer)
    def show(selection: Selection, value: int) -> Updates:
        return {answer: f"{selection.precision} {value}"}

    assert show(EXPLORE, 3) == {answer: "W4A4 3"}


def test_callbacks_of_tabs_that_are_not_selected_are_skipped(answer: gr.HTML) -> None:
    @callback(answer, tab="explore")
    def show(selection: Selection) -> Updates:
        return {answer: selection.tab}

    assert show(EXPLORE) == {answer: "explore"}
    assert show(GENERATE) == gr.skip()


def test_no_updates_skip_every_output(answer: gr.HTML) -> None:
    @callback(answer)
    def show(selection: Selection) -> Updates:
        return {}

    assert show(EXPLORE) == gr.skip()


class Panic(BaseException):
    """What a Rust library raises when its code fails: no Exception."""


def test_expected_errors_are_shown_escaped_and_others_are_logged(
    answer: gr.HTML, caplog: pytest.LogCaptureFixture
) -> None:
    @callback(answer)
    def fail(selection: Selection, error: Exception) -> Updates:
        raise error

    shown = fail(EXPLORE, ValueError("<b>too long</b>"))[answer]
    assert "&lt;b&gt;too long&lt;/b&gt;" in shown and 'role="alert"' in shown
    for unexpected in (KeyError("a bug"), Panic("a panic")):
        with caplog.at_level("ERROR"):
            shown = fail(EXPLORE, unexpected)[answer]
        assert type(unexpected).__name__ in shown and "a bug" not in shown and "a panic" not in shown
        assert caplog.records.pop().exc_info[1] is unexpected
    with pytest.raises(KeyboardInterrupt):
        fail(EXPLORE, KeyboardInterrupt())


def test_without_an_answer_errors_are_notices() -> None:
    @callback()
    def fail(selection: Selection) -> Updates:
        raise ValueError("<b>no answer line</b>")

    with pytest.raises(gr.Error, match="&lt;b&gt;no answer line") as raised:
        fail(EXPLORE)
    assert not raised.value.print_exception


def test_generators_stream_updates_until_an_error(answer: gr.HTML) -> None:
    @callback(answer, tab="generate")
    def count(selection: Selection) -> Iterator[Updates]:
        yield {answer: "1"}
        yield {}
        raise RuntimeError("stopped at 2")

    first, second, last = count(GENERATE)
    assert (first, second) == ({answer: "1"}, gr.skip())
    assert "stopped at 2" in last[answer]
    assert list(count(EXPLORE)) == [gr.skip()]


def test_closing_a_stream_closes_the_generator(answer: gr.HTML) -> None:
    closed = []

    @callback(answer)
    def count(selection: Selection) -> Iterator[Updates]:
        try:
            yield {answer: "1"}
        finally:
            closed.append(True)

    stream = count(EXPLORE)
    next(stream)
    stream.close()
    assert closed == [True]
