"""The form of Compare that evaluates a run or a model by a protocol, and the figure of KL by confidence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import gradio as gr
import pandas as pd
from gradio.events import Dependency

from abq_core.text.records import Protocol
from abq_core.text.sources import NAMES, is_name
from app.figures.kl_buckets import kl_buckets_figure
from app.figures.run_lenses import lens_of
from app.formatting import count, kl, percent, perplexity
from app.services.evaluation import EvaluationText
from app.web import html
from app.web.access.login import account_of
from app.web.page.callbacks import BUSY, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import framed
from app.web.page.selection import Selection
from app.web.page.steps import Steps

if TYPE_CHECKING:
    from abq_core.evaluation.perplexity import Evaluation

RUN, FULL = "Selected run", "Full precision"
PROTOCOLS = [("windows: sampled segments", "windows"), ("paper: the whole text, as in GPTQ's script", "paper")]
LATEST = ("the latest text of each run", "")
CAPTION = (
    "Look at the right: tokens that full precision is sure of should keep their predictions. Below the dotted line, a "
    "difference is no larger than that of bfloat16."
)


@dataclass(frozen=True)
class EvaluationForm:
    """The widgets. measured_on: the evaluations that the table and the figures show."""

    measured_on: gr.Dropdown
    subject: gr.Radio
    data: gr.Dropdown
    protocol: gr.Radio
    evaluate: gr.Button
    stop: gr.Button
    answer: gr.HTML

    def on_evaluation(self, page: Page) -> Dependency:
        """Wire the buttons. Returns the event, so that what it changed can be shown after it."""
        answer = self.answer

        @callback(answer)
        def measure_run(  # named unlike the endpoint, whose arguments requests are checked against
            selection: Selection, subject: str, data: str | None, protocol: str, request: gr.Request
        ) -> Iterator[Updates]:
            target = selection.run if subject == RUN else selection.model
            if not target:
                raise ValueError("No run is selected: select a row of the table, or choose Full precision.")
            yield {answer: html.answer(f"Loading the model{html.ELLIPSIS}")}
            wanted, account = EvaluationText(data or "", protocol=cast("Protocol", protocol)), account_of(request)

            def work(report: Callable[[object], None]) -> None:
                report(page.services.evaluation.evaluate(target, wanted, lambda *step: report(step), account))

            for step in Steps[object](work):
                if isinstance(step, tuple):
                    done = percent(step[0] / max(step[1], 1))
                    yield {answer: html.answer(f"Measuring perplexity: {done}{html.ELLIPSIS}")}
                else:
                    found = step
            yield {answer: html.answer(_sentence(target, found))}

        form = [page.selection, self.subject, self.data, self.protocol]
        measuring = self.evaluate.click(measure_run, form, answer, **BUSY)
        self.stop.click(lambda: html.answer("Stopped."), None, answer, cancels=[measuring], **PRIVATE)
        return measuring


def build_evaluation_form() -> EvaluationForm:
    """Build the form inside the current column."""
    measured_on = gr.Dropdown([LATEST], value="", label="Measured on", elem_id="compare-measured-on")
    with gr.Accordion("Evaluate", open=False, elem_id="compare-evaluation"):
        subject = gr.Radio([RUN, FULL], value=RUN, show_label=False, container=False, elem_id="compare-subject")
        data = gr.Dropdown(
            list(NAMES), value=NAMES[0], allow_custom_value=True, label="Text, or the path of a file",
            elem_id="compare-data",
        )  # fmt: skip
        protocol = gr.Radio(PROTOCOLS, value="windows", label="Protocol", elem_id="compare-protocol")
        evaluate = gr.Button("Evaluate", elem_id="compare-evaluate")
        stop = gr.Button("Stop", elem_id="compare-stop")
        answer = gr.HTML("", js_on_load=None, elem_id="compare-evaluation-answer")
    return EvaluationForm(measured_on, subject, data, protocol, evaluate, stop, answer)


def kl_buckets_picture(page: Page, runs: pd.DataFrame, selection: Selection, measured_on: str) -> str:
    """The figure of the selected run, "" if there is none or it was not evaluated on this text."""
    selected = runs[runs["run"].eq(selection.run)] if selection.run else runs.iloc[:0]
    if selected.empty:
        return ""
    buckets = page.services.evaluation.kl_buckets(selection.run, measured_on)
    if buckets.empty:
        return ""
    row = selected.iloc[0]
    floor = None if pd.isna(row["kl_floor"]) else float(row["kl_floor"])
    figure = kl_buckets_figure(buckets, floor, selection.dark, lens_of(str(row["method"])))
    return framed(figure, f"{row['precision']} {row['method']}. {CAPTION}", name="kl")


def _sentence(target: str, found: "Evaluation") -> str:
    """The result. The hash of a file is not shown, because a page with a login may show it to others."""
    of = {"whole": ", the whole file", "evaluation": "" if is_name(found.data) else ", the last tenth of the file"}
    read = f"{count(found.segments)} segments of {count(found.seq_len)} tokens{of.get(found.text.split, '')}"
    distance = "" if found.method == "none" else f", KL {kl(found.kl_mean, found.kl_floor)}"
    return f"{target}: perplexity {perplexity(found.perplexity, found.perplexity_stderr)}{distance} on {read}."


def choices(labels: list[str]) -> list[tuple[str, str]]:
    """The choices of `measured_on`: the latest, and each text that the model or one of its runs was evaluated on."""
    return [LATEST, *((label, label) for label in labels)]
