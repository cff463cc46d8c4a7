"""Which text to calibrate on: one run per text, and the KL of each on every text."""

import shlex
from collections.abc import Callable, Iterator, Sequence

import gradio as gr
import pandas as pd

from abq_core.methods import METHODS
from abq_core.spec import CalibrationSpec
from abq_core.text.sources import BUILTIN_TEXT, BUILTIN_TRAIN_TEXT, NAMES
from app.figures.text_matrix import text_matrix_figure
from app.formatting import percent, seconds
from app.services.sweeps import PlannedCalibration
from app.services.texts.text_lab import short_names
from app.web import html
from app.web.access.login import account_of
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.steps import Steps

Plan = Sequence[PlannedCalibration]

CAPTION = (
    "Look along a column: the calibration text with the lowest KL on that text has an outline. The diagonal is usually "
    "best; a text whose row is pale everywhere is a safe choice."
)
EMPTY = (
    "No pair of texts is measured yet",
    "Each text calibrates the model once, at the precision above. Then every result is measured on every text, on "
    "parts that no calibration has read. Texts of your own are added on the Calibrate tab.",
)


def build_text_lab_panel(page: Page, view: gr.Radio, title: str) -> gr.Row:
    """Build the hidden panel: texts and method left, the matrix right.

    view: the choice of views; the panel is filled while its value is `title`.
    """
    with gr.Row(elem_classes="abq-tab", visible=False) as row:
        with gr.Column(elem_classes="abq-choices"):
            texts = gr.Dropdown(
                list(NAMES), value=[BUILTIN_TEXT, BUILTIN_TRAIN_TEXT], multiselect=True, allow_custom_value=True,
                label="Texts: names, or paths of files", elem_id="texts-texts",
            )  # fmt: skip
            method = gr.Radio(list(METHODS), value="abq", label="Method", elem_id="texts-method")
            calibrate = gr.Button("Calibrate on each text", variant="primary", elem_id="texts-calibrate")
            measure = gr.Button("Measure every run on every text", elem_id="texts-measure")
            stop = gr.Button("Stop", elem_id="texts-stop")
            command = gr.HTML("", js_on_load=None, elem_id="texts-command")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="texts-answer", js_on_load=None)
            empty = gr.HTML(html.empty(*EMPTY), js_on_load=None, elem_id="texts-empty")
            figure = build_picture("texts-figure")

    def shown(plan: Plan, cells: pd.DataFrame, dark: bool) -> Updates:
        picture = _picture(plan, cells, dark)
        return {answer: html.answer(_state(plan, cells)), empty: gr.update(visible=not picture), figure: picture}

    @callback(answer, tab="compare")
    def show(selection: Selection, name: str, chosen: list[str] | None, method: str, request: gr.Request) -> Updates:
        if name != title:
            return {}
        words = ["abq", "texts", selection.model, "--precision", selection.precision, "--method", str(method)]
        line = html.command(shlex.join([*words, "--on", ",".join(chosen or [])]))
        own = [(f"{name} (your text)", path) for name, path in page.texts.of(account_of(request))]
        choices = gr.update(choices=[*((one, one) for one in NAMES), *own])
        plan = _plan(page, selection, chosen, method, account_of(request))
        return {**shown(plan, page.services.text_lab.matrix(plan), selection.dark), command: line, texts: choices}

    @callback(answer)
    def start(selection: Selection, chosen: list[str] | None, method: str, request: gr.Request) -> Updates:
        plan = _plan(page, selection, chosen, method, account_of(request))
        queued = sum(one.is_pending for one in plan)
        page.services.sweeps.queue(plan, account_of(request), page.limits.max_queued)
        if not queued:
            return {answer: html.answer("Every text has a run already, finished or in the queue.")}
        return {answer: html.answer(f"{queued} calibrations are queued."), page.tabs: gr.Tabs(selected="calibrate")}

    @callback(answer)
    def measure_all(
        selection: Selection, chosen: list[str] | None, method: str, request: gr.Request
    ) -> Iterator[Updates]:
        account = account_of(request)
        plan = _plan(page, selection, chosen, method, account)
        if not any(one.state == "succeeded" for one in plan):
            raise ValueError("No text has a finished run yet: press Calibrate on each text first.")
        yield {answer: html.answer(f"Loading the models{html.ELLIPSIS}")}

        def work(report: Callable[[object], None]) -> None:
            report(page.services.text_lab.measure(plan, lambda *step: report(step), account))

        for step in Steps[object](work):
            if isinstance(step, tuple):
                said = f"Measuring every run on every text: {percent(step[0] / max(step[1], 1))}{html.ELLIPSIS}"
                yield {answer: html.answer(said)}
            else:
                cells = step
        yield shown(plan, cells, selection.dark)

    form = [page.selection, texts, method]
    edited = [page.turn("compare"), page.turn("compare-view"), page.header.known.change, texts.input, method.input]
    gr.on(edited, show, [page.selection, view, texts, method], [answer, empty, figure, command, texts], **FOLLOW)
    calibrate.click(start, form, [answer, page.tabs], **PRIVATE)
    measuring = measure.click(measure_all, form, [answer, empty, figure], **BUSY)
    stop.click(lambda: html.answer("Stopped."), None, answer, cancels=[measuring], **PRIVATE)
    return row


def _plan(page: Page, selection: Selection, texts: list[str] | None, method: str, account: str | None) -> Plan:
    """One calibration per text, at the precision of the selection."""
    precision = page.services.models.precision(selection.precision)
    spec = CalibrationSpec(selection.model, precision, method, device=page.services.settings.device)
    return page.services.text_lab.plan(spec, texts or [], account)


def _picture(plan: Plan, cells: pd.DataFrame, dark: bool) -> str:
    """The figure, "" if no pair is measured."""
    if cells["kl_mean"].isna().all():
        return ""
    names = short_names([one.spec.data for one in plan])
    named = cells.assign(**{name: cells[name].map(names) for name in ("calibrated_on", "evaluated_on")})
    return framed(text_matrix_figure(named, dark), CAPTION, named, "texts")


def _state(plan: Plan, cells: pd.DataFrame) -> str:
    """How many runs and pairs are there, and what the rest of the runs takes."""
    done, measured = sum(one.state == "succeeded" for one in plan), int(cells["kl_mean"].notna().sum())
    said = f"{done} of {len(plan)} texts have a finished run; {measured} of {len(cells)} pairs are measured."
    times = [one.estimate.expected_seconds for one in plan if one.is_pending]
    if times and None not in times:
        said += f" The missing calibrations take about {seconds(sum(filter(None, times)))}."
    return said
