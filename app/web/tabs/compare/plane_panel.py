"""Fewer planes: the selected run read at every number of its bit planes, and what it then predicts and writes."""

import shlex
from collections.abc import Iterator, Sequence

import gradio as gr
import pandas as pd

from app.figures.lenses.plane_reads import plane_reads_figure
from app.formatting import bits, nats, percent, perplexity, size, tokens_per_second
from app.services import ServiceError
from app.services.lenses.plane_reads import NEW_TOKENS, PlaneRead
from app.services.models import COST_SEGMENTS, COST_SEQ_LEN
from app.web import html
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.table import Cell, Heading, build_table, sort_number, table
from app.web.tabs.generate_form import FIRST

CAPTION = (
    "Look at the low bits: nothing is calibrated again. The dotted line rounds the original weights to nearest; its "
    "levels are farther apart, because the outer two are the row's smallest and largest weight."
)
NOTE = (
    f"Perplexity, KL and same top token on {COST_SEGMENTS} segments of {COST_SEQ_LEN} held-out tokens, simulated; text "
    f"and tokens/s of {NEW_TOKENS} tokens by the packed engine, which reads only these planes."
)
EMPTY = (
    "No number of bit planes is measured yet",
    "The codes of a weight are bit planes. Without the lowest ones the same run is a smaller model: 8 bits become 7, "
    "and so on down to 2. Select a run of more than 2 bits without a star, and measure each number of planes once.",
)
HEADINGS = [
    Heading("planes", numeric=True), Heading("linear layers", numeric=True, optional=1),
    Heading(html.term("bits per parameter"), numeric=True, optional=2), Heading(html.term("perplexity"), numeric=True),
    Heading(html.term("KL"), numeric=True), Heading("KL, rounded to nearest", numeric=True),
    Heading(html.term("same top token", "same top"), numeric=True), Heading("tokens/s", numeric=True),
]  # fmt: skip


def build_plane_panel(page: Page, view: gr.Radio, title: str) -> gr.Row:
    """Build the hidden panel: prompt and slider left; figure, text and table right.

    view: the choice of views; the panel is filled while its value is `title`.
    """
    with gr.Row(elem_classes="abq-tab", visible=False) as row:
        with gr.Column(elem_classes="abq-choices"):
            planes = gr.Slider(2, 8, value=8, step=1, label="Bit planes read", elem_id="planes-slider")
            prompt = gr.Textbox(FIRST.prompt, label="Prompt", max_length=500, elem_id="planes-prompt")
            measure = gr.Button("Read with fewer planes", variant="primary", elem_id="planes-measure")
            stop = gr.Button("Stop", elem_id="planes-stop")
            command = gr.HTML("", js_on_load=None, elem_id="planes-command")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="planes-answer", js_on_load=None)
            empty = gr.HTML(html.empty(*EMPTY), js_on_load=None, elem_id="planes-empty")
            figure = build_picture("planes-figure")
            text = gr.HTML("", js_on_load=None, elem_id="planes-text")
            reads = build_table("planes-reads")

    def shown(selection: Selection, counts: Sequence[int], chosen: float | None, prompt: str | None) -> Updates:
        at = min(max(int(chosen or 0), counts[-1]), counts[0])
        service = page.services.lenses.plane_reads
        found = [service.known(selection.run, count, prompt or "") for count in counts]
        known = [read for read in found if read is not None]
        here = next((read for read in known if read.at.planes == at), None)
        words = ["abq", "runs", "planes", selection.run, "--prompt", prompt or ""]
        frame = reads_frame(known)
        drawn = framed(plane_reads_figure(frame, at, selection.dark), CAPTION, frame, "planes")
        return {
            answer: html.answer(html.render("planes_answer.html", at=at, here=here, whole=counts[0])),
            empty: gr.update(visible=not known),
            figure: drawn if known else "",
            text: html.render("planes_text.html", prompt=prompt or "", here=here, whole=found[0]) if here else "",
            reads: _table(known, at) if known else "",
            planes: gr.update(minimum=counts[-1], maximum=counts[0], value=at),
            command: html.command(shlex.join(words)),
        }

    @callback(answer, tab="compare")
    def show(selection: Selection, name: str, chosen: float | None, prompt: str | None) -> Updates:
        if name != title:
            return {}
        nothing = {empty: gr.update(visible=True), figure: "", text: "", reads: "", command: ""}
        if not selection.run:
            return {**nothing, answer: html.answer("Select a run at the top of the page.")}
        try:
            counts = page.services.lenses.plane_reads.counts(selection.run)
        except ServiceError as error:
            return {**nothing, answer: html.answer(str(error))}
        return shown(selection, counts, chosen, prompt)

    @callback(answer)
    def read_all(selection: Selection, prompt: str | None) -> Iterator[Updates]:
        if not selection.run:
            raise ValueError("Select a run at the top of the page first.")
        service = page.services.lenses.plane_reads
        counts = service.counts(selection.run)
        for count in counts:
            yield {answer: html.answer(f"Reading {count} of {counts[0]} bit planes{html.ELLIPSIS}")}
            service.read(selection.run, count, prompt or "")
        yield {answer: html.answer(html.BLANK)}

    outputs = [answer, empty, figure, text, reads, planes, command]
    edited = [page.turn("compare"), page.turn("compare-view"), planes.input, prompt.submit]
    inputs = [page.selection, view, planes, prompt]
    gr.on(edited, show, inputs, outputs, **FOLLOW)
    measuring = measure.click(read_all, [page.selection, prompt], answer, **BUSY)
    measuring.success(show, inputs, outputs, **PRIVATE)
    stopped = html.answer("Stopped. What is measured is kept.")
    stop.click(lambda: stopped, None, answer, cancels=[measuring], **PRIVATE)
    return row


def reads_frame(reads: Sequence[PlaneRead]) -> pd.DataFrame:
    """One row per number of planes, for the figure."""
    columns = ["planes", "kl_mean", "perplexity", "rounded_kl_mean", "rounded_perplexity"]
    return pd.DataFrame([read.to_dict() for read in reads], columns=columns)


def _table(reads: Sequence[PlaneRead], chosen: int) -> str:
    rows = [(str(read.at.planes), _cells(read)) for read in reads]
    made = table(HEADINGS, rows, "This run by bit planes", str(chosen), selectable=False)
    return html.render("noted_table.html", table=made, note=NOTE)


def _cells(read: PlaneRead) -> list[Cell]:
    at, scores = read.at, read.at.scores
    return [
        Cell(str(at.planes), at.planes),
        Cell(size(at.weight_bytes), at.weight_bytes),
        Cell(bits(read.bits_per_parameter), sort_number(read.bits_per_parameter)),
        Cell(perplexity(scores.perplexity, scores.perplexity_stderr), sort_number(scores.perplexity)),
        Cell(nats(scores.kl_mean), sort_number(scores.kl_mean)),
        Cell(nats(at.rounded.kl_mean), sort_number(at.rounded.kl_mean)),
        Cell(percent(scores.same_top), sort_number(scores.same_top)),
        Cell(tokens_per_second(read.written.tokens_per_second), read.written.tokens_per_second),
    ]
