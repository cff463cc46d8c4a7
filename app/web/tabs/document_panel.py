"""The document on Generate: KL from full precision at every token of a text, and the tokens that differ most."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr
import pandas as pd

from app.figures.document_strip import document_figure
from app.formatting import nats, percent, printable
from app.services.texts.documents import MOST_TOKENS, DocumentKl
from app.web import html
from app.web.access.login import account_of
from app.web.limits import MAX_COLUMNS
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.table import Cell, Heading, build_table, table
from app.web.tabs.generate_columns import column_title, offer_of
from app.web.tabs.own_texts import FILES, TextChoice, build_text_choice, wire_text_choice

WORST = 20  # tokens in the table
BEFORE, AFTER = 8, 4  # tokens around one in the table
LONGEST = 12  # characters of an expected token
LINE_END = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
CAPTION = (
    "Look for red cells: there the next-token distribution differs most from full precision. A line is 128 tokens, and "
    "all columns read the same text. Hover over a cell for its text."
)
EMPTY = (
    "Where does a text differ?",
    "Choose a text, or paste your own, and measure it: every token is coloured by the KL divergence of the next-token "
    "distribution from full precision, and the tokens that differ most are listed.",
)
HEADINGS = [
    Heading("token", numeric=True), Heading("in its context", wraps=True), Heading("column"),
    Heading("KL", numeric=True), Heading("full expects"), Heading("column expects"),
    Heading("probability, full to column", numeric=True, optional=1),
]  # fmt: skip


@dataclass(frozen=True)
class DocumentPanel:
    """The widgets. view: the row that holds them."""

    view: gr.Row
    text: TextChoice
    columns: gr.Dropdown
    go: gr.Button
    stop: gr.Button
    answer: gr.HTML
    figure: gr.HTML
    worst: gr.HTML
    shown_for: gr.State

    def wire(self, page: Page) -> None:
        """Connect the widgets."""

        @callback(self.answer, tab="generate")
        def offer_columns(selection: Selection, before: str) -> Updates:
            offered = offer_of(page, selection, before, with_full=False)
            if offered is None:
                return {}
            updates = {self.columns: offered.update, self.shown_for: offered.key}
            if not offered.new_model:
                return updates
            return {**updates, self.figure: "", self.worst: html.empty(*EMPTY)}

        @callback(self.answer)
        def measure_document(
            selection: Selection, source: str | None, columns: list[str] | None, request: gr.Request
        ) -> Iterator[Updates]:
            yield from self._measure(page, selection, source or "", columns or [], account_of(request))

        wire_text_choice(page, self.answer, self.text, "generate")
        inputs = [page.selection, self.text.data, self.columns]
        measuring = self.go.click(measure_document, inputs, [self.answer, self.figure, self.worst], **BUSY)
        stopped = html.answer("Stopped. The columns that are done are kept.")
        self.stop.click(lambda: stopped, None, self.answer, cancels=[measuring], **PRIVATE)
        offered = [self.answer, self.columns, self.shown_for, self.figure, self.worst]
        page.turn("generate")(offer_columns, [page.selection, self.shown_for], offered, **FOLLOW)

    def _measure(
        self, page: Page, selection: Selection, source: str, columns: list[str], account: str | None
    ) -> Iterator[Updates]:
        if not 1 <= len(columns) <= MAX_COLUMNS:
            raise ValueError(f"{len(columns)} columns are selected: select 1 to {MAX_COLUMNS}.")
        titles = {column: column_title(page, column)[0] for column in columns}
        yield {self.answer: html.answer(f"Reading the text, {len(columns)} columns and full precision{html.ELLIPSIS}")}
        for found in page.services.documents.measure(columns, source, selection.model, account):
            figure = document_figure(found.rows, titles, found.tokens, selection.dark)
            yield {
                self.answer: html.answer(f"Reading: {len(found.rows)} of {len(columns)} columns{html.ELLIPSIS}"),
                self.figure: framed(figure, CAPTION, _tokens(found, titles), "document-kl"),
                self.worst: _worst(found, titles),
            }
        lenses = {column: column_title(page, column)[1] for column in columns}
        parts = [(titles[name], lenses[name], rows["kl"].mean(), _share(rows)) for name, rows in found.rows.items()]
        said = html.render("document_answer.html", parts=parts, tokens=len(found.tokens), whole=found.is_whole)
        yield {self.answer: html.answer(said, "generate")}


def build_document_panel() -> DocumentPanel:
    """Build the hidden view: text and columns on the left, the strip and the list on the right."""
    with gr.Row(elem_classes="abq-tab", visible=False) as view:
        with gr.Column(elem_classes="abq-choices"):
            text = build_text_choice("document", "Text", f"{FILES} The first {MOST_TOKENS:,} tokens are read.")
            columns = gr.Dropdown(
                [], label="Columns (1 to 4)", multiselect=True, max_choices=MAX_COLUMNS, elem_id="document-columns",
                info="Each is compared with full precision.",
            )  # fmt: skip
            with gr.Row():
                go = gr.Button("Measure", variant="primary", min_width=80, elem_id="document-go")
                stop = gr.Button("Stop", min_width=80, elem_id="document-stop")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="document-answer", js_on_load=None)
            figure = build_picture("document-figure")
            worst = build_table("document-worst")
    return DocumentPanel(view, text, columns, go, stop, answer, figure, worst, gr.State(""))


def _share(rows: pd.DataFrame) -> float:
    """The share of tokens for which both expect the same one."""
    return float(rows["top"].eq(rows["full_top"]).mean())


def _tokens(found: DocumentKl, titles: dict[str, str]) -> pd.DataFrame:
    """One row per token and column, for the CSV."""
    rows = pd.concat([one.assign(column=titles[name]) for name, one in found.rows.items()])
    rows["token"] = [found.tokens[at] for at in rows["position"]]
    return rows[["column", "position", "token", "kl", "full_probability", "probability"]]


def _worst(found: DocumentKl, titles: dict[str, str]) -> str:
    """The tokens with the largest KL of all columns."""
    ranked = pd.concat([rows.assign(column=name) for name, rows in found.rows.items()]).nlargest(WORST, "kl")
    lines = [(str(row["position"]), _cells(row, found, titles)) for row in ranked.to_dict("records")]
    return table(HEADINGS, lines, "Tokens that differ most from full precision", selectable=False)


def _cells(row: dict[str, object], found: DocumentKl, titles: dict[str, str]) -> list[Cell]:
    at = int(row["position"])
    before, after = found.tokens[max(0, at - BEFORE) : at], found.tokens[at + 1 : at + 1 + AFTER]
    parts = {"before": "".join(before), "token": found.tokens[at], "after": "".join(after)}
    context = html.render("token_context.html", **{name: _on_one_line(text) for name, text in parts.items()})
    return [
        Cell(f"{at:,}", at),
        Cell(context, at),
        Cell(titles[str(row["column"])]),
        Cell(nats(row["kl"]), row["kl"]),
        *(Cell(f"{_on_one_line(str(row[f'{name}top_text']))[:LONGEST]!r}, {percent(row[f'{name}top_probability'])}",
               row[f"{name}top_probability"]) for name in ("full_", "")),
        Cell(f"{percent(row['full_probability'])} to {percent(row['probability'])}", row["full_probability"]),
    ]  # fmt: skip


def _on_one_line(text: str) -> str:
    """The text with a mark for each run of line ends, without repeated spaces and control characters."""
    return printable(re.sub(r" {2,}", " ", re.sub(r"\s*\n\s*", f" {LINE_END} ", text)))
