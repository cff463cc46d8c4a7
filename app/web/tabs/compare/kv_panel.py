"""KV cache: what fewer bits of K and V, and fewer tokens in the cache, cost the model or the selected run."""

import shlex
from collections.abc import Callable, Iterator

import gradio as gr
import pandas as pd

from app.figures.lenses.kv_cache import kv_cache_figure
from app.formatting import nats, number, percent, perplexity, size
from app.services.lenses.kv_cache import FEWEST_TOKENS, MOST_TOKENS, SEGMENTS, Subject
from app.web import html
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.steps import Steps
from app.web.page.table import Cell, Heading, build_table, sort_number, table

NEAR = 0.05  # nats: a cache with at most this KL more than the whole one is called near
CAPTION = (
    "Look for the lowest line at a size: a cache of half the bytes can have fewer bits, or fewer tokens. Solid lines "
    "drop the tokens that got the least attention, dotted ones keep the first 4 tokens and the newest."
)
EMPTY = (
    "No size of the KV cache is measured yet",
    "While a model writes, it keeps keys and values of every token. Here they get fewer bits (8, 4, 2), or the cache "
    "holds fewer tokens (1/2, 1/4, 1/8 of the text), and the KL divergence from full precision is measured.",
)
HEADINGS = [
    Heading("bits of K and V", numeric=True), Heading("keeps"), Heading("tokens", numeric=True),
    Heading("cache", numeric=True), Heading(html.term("KL"), numeric=True),
    Heading(html.term("perplexity"), numeric=True), Heading(html.term("same top token", "same top"), numeric=True),
]  # fmt: skip


def build_kv_panel(page: Page, view: gr.Radio, title: str) -> gr.Row:
    """Build the hidden panel: what is measured left, figure and table right.

    view: the choice of views; the panel is filled while its value is `title`.
    """
    with gr.Row(elem_classes="abq-tab", visible=False) as row:
        with gr.Column(elem_classes="abq-choices"):
            of_run = gr.Checkbox(False, label="With the weights of the selected run", elem_id="kv-of-run")
            tokens = gr.Slider(
                FEWEST_TOKENS, MOST_TOKENS, value=512, step=64, label="Tokens of a text, at most", elem_id="kv-tokens"
            )
            measure = gr.Button("Measure smaller caches", variant="primary", elem_id="kv-measure")
            stop = gr.Button("Stop", elem_id="kv-stop")
            command = gr.HTML("", js_on_load=None, elem_id="kv-command")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="kv-answer", js_on_load=None)
            empty = gr.HTML(html.empty(*EMPTY), js_on_load=None, elem_id="kv-empty")
            figure = build_picture("kv-figure")
            sizes = build_table("kv-sizes")

    def subject_of(selection: Selection, with_run: bool | None, most: float | None) -> Subject:
        if with_run and not selection.run:
            raise ValueError("Select a run at the top of the page first, or measure full precision.")
        measured = selection.run if with_run else selection.model
        return page.services.lenses.kv_cache.subject(measured, int(number(most) or MOST_TOKENS))

    def shown(selection: Selection, subject: Subject) -> Updates:
        found = page.services.lenses.kv_cache.known(subject)
        words = ["abq", "kv", subject.run or subject.model, "--tokens", str(subject.tokens)]
        return {
            answer: html.answer(html.BLANK if found is None else _answer(found)),
            empty: gr.update(visible=found is None),
            figure: "" if found is None else framed(kv_cache_figure(found, selection.dark), CAPTION, found, "kv-cache"),
            sizes: "" if found is None else _table(found),
            command: html.command(shlex.join(words)),
        }

    @callback(answer, tab="compare")
    def show(selection: Selection, name: str, with_run: bool | None, most: float | None) -> Updates:
        return shown(selection, subject_of(selection, with_run, most)) if name == title else {}

    @callback(answer)
    def measure_all(selection: Selection, with_run: bool | None, most: float | None) -> Iterator[Updates]:
        subject = subject_of(selection, with_run, most)
        yield {answer: html.answer(f"Loading the model{html.ELLIPSIS}")}

        def work(report: Callable[[object], None]) -> None:
            page.services.lenses.kv_cache.measure(subject, lambda *step: report(step))

        for step in Steps[object](work):
            if isinstance(step, tuple):
                yield {answer: html.answer(f"Measuring size {step[0] + 1} of {step[1]}{html.ELLIPSIS}")}
        yield shown(selection, subject)

    outputs = [answer, empty, figure, sizes, command]
    edited = [page.turn("compare"), page.turn("compare-view"), of_run.input, tokens.input]
    gr.on(edited, show, [page.selection, view, of_run, tokens], outputs, **FOLLOW)
    measuring = measure.click(measure_all, [page.selection, of_run, tokens], outputs, **BUSY)
    stop.click(lambda: html.answer("Stopped."), None, answer, cancels=[measuring], **PRIVATE)
    return row


def _answer(found: pd.DataFrame) -> str:
    """The smallest cache that is near the whole one at 16 bits, in one sentence."""
    whole = found.iloc[0]
    near = found[found["kl_mean"] <= whole["kl_mean"] + NEAR].sort_values("bytes").iloc[0]
    return html.render("kv_answer.html", near=near.to_dict(), whole=whole.to_dict(), most=NEAR)


def _table(found: pd.DataFrame) -> str:
    rows = [(f"{row['bits']} {row['kept']} {row['tokens']}", _cells(row)) for row in found.to_dict("records")]
    made = table(HEADINGS, rows, "Sizes of the KV cache", selectable=False)
    note = (
        f"On {SEGMENTS} segments of held-out text, as long as the largest number of tokens. KL to full precision with "
        "the whole cache. The cache's bytes are those at the end of a segment, with scales and zero points."
    )
    return html.render("noted_table.html", table=made, note=note)


def _cells(row: dict[str, object]) -> list[Cell]:
    return [
        Cell(str(row["bits"]), row["bits"]),
        Cell(str(row["kept"])),
        Cell(f"{row['tokens']:,}", row["tokens"]),
        Cell(size(row["bytes"]), row["bytes"]),
        Cell(nats(row["kl_mean"]), sort_number(row["kl_mean"])),
        Cell(perplexity(row["perplexity"], row["perplexity_stderr"]), sort_number(row["perplexity"])),
        Cell(percent(row["same_top"]), sort_number(row["same_top"])),
    ]
