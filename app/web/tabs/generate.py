"""Generate: can I see the difference in text? One prompt, two to four columns that write at the same time."""

import shlex
import time
from collections.abc import Iterator

import gradio as gr

from app.web.limits import MAX_COLUMNS
from app.web.tabs import words
from app.web.tabs.guard import EXPECTED
from app.web.tabs.jobs_panel import PRIVATE
from app.web.tabs.page import Page
from app.web.tabs.selection import Selection, run_choices
from app.web.tabs.streams import Streams

PROMPT = "When an exception"
SHOW_EVERY_SECONDS = 0.12
EMPTY = words.empty(
    "The same prompt through several lenses",
    "Press Generate: the columns write at once, one token each in turn. The first token that differs is marked, and "
    "every token is tinted by how far the column's distribution is from full precision.",
)


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
            answer = gr.HTML(words.answer("&nbsp;"), elem_id="generate-answer", js_on_load=None)
            streams = gr.HTML(EMPTY, elem_id="generate-streams", js_on_load=None)
    shown_for = gr.State("")

    def offer(text: str, shown_for: str) -> list[object]:
        """The columns that can be chosen; a new choice in the header brings its own."""
        selection = Selection.from_json(text)
        key = f"{selection.model} {selection.precision} {selection.run}"
        if selection.tab != "generate" or key == shown_for:
            return [gr.skip()] * 2
        choices = _choices(page, selection)
        value = ["full", selection.precision, *([selection.run] if selection.run else [])]
        known = {column for _, column in choices}
        return [gr.update(choices=choices, value=[column for column in value if column in known]), key]

    def write(
        text: str,
        prompt: str,
        columns: list[str],
        tokens: float,
        temperature: float,
        seed: float | None,
        request: gr.Request,
    ) -> Iterator[list[object]]:
        """Stream; a sentence where it cannot be done."""
        selection = Selection.from_json(text)
        try:
            if not 2 <= len(columns or []) <= MAX_COLUMNS:
                raise ValueError(f"{len(columns or [])} columns are chosen: choose 2 to {MAX_COLUMNS} to compare.")
            page.limits.check_text(request, columns, prompt or "", tokens)
            yield [words.answer("Preparing the columns&hellip;"), gr.skip()]
            events = page.services.generation.generate(
                columns, prompt or "", int(tokens), float(temperature), int(seed or 0), selection.model
            )
            view = Streams(prompt, {column: _title(page, column) for column in columns})
            shown = 0.0
            for event in events:
                view.add(event)
                if time.monotonic() - shown >= SHOW_EVERY_SECONDS:
                    shown = time.monotonic()
                    yield [words.answer("Writing&hellip;"), view.html()]
            yield [words.answer(view.summary()), view.html()]
        except EXPECTED as error:
            yield [words.problem(error), gr.skip()]

    page.selection.change(offer, [page.selection, shown_for], [columns, shown_for], **PRIVATE)
    inputs = [page.selection, prompt, columns, tokens, temperature, seed]
    writing = gr.on(
        [go.click, prompt.submit],
        write,
        inputs,
        [answer, streams],
        concurrency_limit=1,
        concurrency_id="model",
        **PRIVATE,
    )
    stop.click(None, cancels=[writing], **PRIVATE)
    gr.on([widget.change for widget in inputs[1:]], _command, inputs, command, trigger_mode="always_last", **PRIVATE)


def _choices(page: Page, selection: Selection) -> list[tuple[str, str]]:
    runs = page.services.runs.newest_frame()
    rounded = list(dict.fromkeys([selection.precision, "W8A8", "W4A8", "W4A4", "W2*A8", "W2A8"]))
    return [
        ("Full precision", "full"),
        *((f"{precision}, only rounded", precision) for precision in rounded),
        *run_choices(runs[runs["model"].eq(selection.model)]),
    ]


def _title(page: Page, column: str) -> tuple[str, str]:
    """Title and lens of a column."""
    if column == "full":
        return "Full precision", "full"
    if not column.startswith("r-"):
        return f"{column}, only rounded", "rounded"
    run = page.services.runs.get(column)
    return f"{run.precision} {run.method}", "rounded" if run.method == "rtn" else "corrected"


def _command(text: str, prompt: str, columns: list[str], tokens: float, temperature: float, seed: float | None) -> str:
    """The line for each column that the command line can generate from: models and runs."""
    model = Selection.from_json(text).model
    sources = [
        model if column == "full" else column for column in columns or [] if column == "full" or column.startswith("r-")
    ]
    lines = [
        shlex.join(
            ["abq", "generate", source, "--prompt", prompt or "", "--max-new-tokens", str(int(tokens)),
             "--temperature", f"{temperature:g}", "--seed", str(int(seed or 0))]
        )
        for source in sources
    ]  # fmt: skip
    return words.command("\n".join(lines)) if lines else ""
