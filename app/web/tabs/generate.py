"""The Generate tab: one prompt, two to four columns decoded at the same time.

Shows the effect of quantization on text.
"""

import shlex
import time
from collections.abc import Iterator
from typing import NamedTuple

import gradio as gr

from app.web import html
from app.web.limits import MAX_COLUMNS
from app.web.page.callbacks import BUSY, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.selection import Selection, run_choices
from app.web.page.streams import Streams
from storage.run_ids import means_run

PROMPT = "When an exception"
SHOW_EVERY_SECONDS = 0.12
PREPARING, WRITING = "Preparing the columns\N{HORIZONTAL ELLIPSIS}", "Writing\N{HORIZONTAL ELLIPSIS}"
EMPTY = (
    "Compare text side by side",
    "Press Generate to decode the prompt in all columns at once. The first token that differs is marked, and every "
    "token is shaded by the KL divergence of its column from full precision.",
)


class Form(NamedTuple):
    """The values of the form's widgets, in the order of the events' inputs."""

    prompt: str | None
    columns: list[str] | None
    tokens: float
    temperature: float
    seed: float | None


def build_generate_tab(page: Page) -> None:
    """Prompt and columns on the left, the text on the right."""
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            prompt = gr.Textbox(PROMPT, label="Prompt", lines=5, max_lines=12, elem_id="generate-prompt")
            columns = gr.Dropdown(
                [], label="Columns (2 to 4)", multiselect=True, max_choices=MAX_COLUMNS, elem_id="generate-columns"
            )
            tokens = gr.Slider(8, 256, value=64, step=8, label="New tokens", elem_id="generate-tokens")
            temperature = gr.Slider(
                0, 1.5, value=0.4, step=0.1, label="Temperature", info="0 takes the most likely token.",
                elem_id="generate-temperature",
            )  # fmt: skip
            seed = gr.Number(3, label="Seed", precision=0, elem_id="generate-seed")
            with gr.Row():
                go = gr.Button("Generate", variant="primary", min_width=80, elem_id="generate-go")
                stop = gr.Button("Stop", min_width=80, elem_id="generate-stop")
            command = gr.HTML("", js_on_load=None)
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="generate-answer", js_on_load=None)
            streams = gr.HTML(html.empty(*EMPTY), elem_id="generate-streams", js_on_load=None)
    shown_for = gr.State("")

    @callback(answer, tab="generate")
    def offer(selection: Selection, before: str) -> Updates:
        """Offer the columns of this selection, and select its own when it changes."""
        key = f"{selection.model} {selection.precision} {selection.run}"
        if key == before:
            return {}
        choices = _choices(page, selection)
        known = {column for _, column in choices}
        selected = [column for column in ("full", selection.precision, selection.run) if column in known]
        return {columns: gr.update(choices=choices, value=selected), shown_for: key}

    @callback(answer)
    def write(
        selection: Selection,
        prompt: str | None,
        columns: list[str] | None,
        tokens: float,
        temperature: float,
        seed: float | None,
        request: gr.Request,
    ) -> Iterator[Updates]:
        if not 2 <= len(columns or []) <= MAX_COLUMNS:
            raise ValueError(f"{len(columns or [])} columns are selected: select 2 to {MAX_COLUMNS}.")
        page.limits.check_text(request, columns, prompt or "", tokens)
        yield {answer: html.answer(PREPARING)}
        events = page.services.generation.generate(
            columns, prompt or "", int(tokens), float(temperature), int(seed or 0), selection.model
        )
        view = Streams(prompt or "", {column: _title(page, column) for column in columns})
        shown_at = 0.0
        for event in events:
            view.add(event)
            if time.monotonic() - shown_at >= SHOW_EVERY_SECONDS:
                shown_at = time.monotonic()
                yield {answer: html.answer(WRITING), streams: view.html()}
        yield {answer: html.answer(view.summary()), streams: view.html()}

    @callback(answer, tab="generate")
    def show_command(selection: Selection, *values: object) -> Updates:
        return {command: _command(selection.model, Form(*values))}

    page.selection.change(offer, [page.selection, shown_for], [answer, columns, shown_for], **PRIVATE)
    inputs = [page.selection, *Form(prompt, columns, tokens, temperature, seed)]
    writing = gr.on([go.click, prompt.submit], write, inputs, [answer, streams], **BUSY)
    stop.click(None, cancels=[writing], **PRIVATE)
    edited = [widget.change for widget in inputs[1:]]
    gr.on(edited, show_command, inputs, [answer, command], trigger_mode="always_last", **PRIVATE)


def _choices(page: Page, selection: Selection) -> list[tuple[str, str]]:
    runs = page.services.runs.newest_frame()
    rounded = list(dict.fromkeys([selection.precision, "W8A8", "W4A8", "W4A4", "W2*A8", "W2A8"]))
    return [
        ("Full precision", "full"),
        *((f"{precision} rounded", precision) for precision in rounded),
        *run_choices(runs[runs["model"].eq(selection.model)]),
    ]


def _title(page: Page, column: str) -> tuple[str, str]:
    """Title and lens of a column."""
    if column == "full":
        return "Full precision", "full"
    if not means_run(column):
        return f"{column} rounded", "rounded"
    run = page.services.runs.get(column)
    return f"{run.precision} {run.method}", "rounded" if run.method == "rtn" else "corrected"


def _command(model: str, form: Form) -> str:
    """One line per column that the command line can generate from: the model and runs."""
    columns = form.columns or []
    sources = [model if column == "full" else column for column in columns if column == "full" or means_run(column)]
    options = [
        "--prompt", form.prompt or "", "--max-new-tokens", str(int(form.tokens)),
        "--temperature", f"{form.temperature:g}", "--seed", str(int(form.seed or 0)),
    ]  # fmt: skip
    lines = [shlex.join(["abq", "generate", source, *options]) for source in sources]
    return html.command(lines) if lines else ""
