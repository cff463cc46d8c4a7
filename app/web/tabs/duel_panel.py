"""The duel on Generate: two texts without names, the visitor's vote, and how often each precision won."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import gradio as gr

from app.formatting import MISSING, count, number, percent
from app.services.texts.duels import Contender
from app.web import html
from app.web.access.login import visitor_of
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.selection import Selection
from app.web.page.table import Cell, Heading, build_table, sort_number, table
from app.web.tabs.generate_columns import column_title, offer_of
from storage.votes import Winner

PROMPT = "The easiest way to learn a language is"
MESSAGE = "Explain in two sentences why the sky is blue."
ENOUGH_VOTES = 5  # before the results show
MAX_CONTENDERS = 8
MAX_SEED = 2**31 - 1
SHOW_EVERY = 16  # tokens between two messages about the progress
VOTES: tuple[tuple[Winner, str], ...] = (
    ("left", "Left is better"), ("equal", "Equally good"), ("right", "Right is better")
)  # fmt: skip
EMPTY = (
    "Which one is better?",
    "Two of the contenders write to the same prompt, in random order and without their names. You vote, then you learn "
    "which was which. The votes of all visitors add up to the results below.",
)


@dataclass(frozen=True)
class Duel:
    """A duel that waits for a vote. It stays on the server: the page must not know the names.

    answers: the texts answer the prompt, with the model's chat template; otherwise they continue it.
    """

    model: str
    prompt: str
    left: Contender
    right: Contender
    answers: bool
    texts: dict[str, str] = field(default_factory=dict)


class _Side(NamedTuple):
    """One text as the template shows it. lens: "" while the name is hidden."""

    word: str
    title: str
    lens: str
    text: str


@dataclass(frozen=True)
class DuelPanel:
    """The widgets. view: the row that holds them."""

    view: gr.Row
    prompt: gr.Textbox
    contenders: gr.Dropdown
    tokens: gr.Slider
    temperature: gr.Slider
    go: gr.Button
    answer: gr.HTML
    texts: gr.HTML
    votes: gr.Row
    buttons: dict[Winner, gr.Button]
    standings: gr.HTML
    duel: gr.State
    shown_for: gr.State

    def wire(self, page: Page) -> None:
        """Connect the widgets."""

        @callback(self.answer, tab="generate")
        def offer_contenders(selection: Selection, before: str) -> Updates:
            offered = offer_of(page, selection, before)
            shown = {self.standings: _standings(page, selection.model)}
            if offered is None:
                return shown
            updates = {**shown, self.contenders: offered.update, self.shown_for: offered.key}
            if not offered.new_model:
                return updates
            chat = page.services.models.can_chat(selection.model)
            return {**updates, self.prompt: MESSAGE if chat else PROMPT, **self._cleared()}

        @callback(self.answer)
        def start_duel(
            selection: Selection,
            prompt: str | None,
            contenders: list[str] | None,
            tokens: float | None,
            temperature: float | None,
            request: gr.Request,
        ) -> Iterator[Updates]:
            yield from self._start(page, selection, (prompt or "", contenders or [], tokens, temperature), request)

        inputs = [page.selection, self.prompt, self.contenders, self.tokens, self.temperature]
        outputs = [self.answer, self.texts, self.votes, self.duel]
        gr.on([self.go.click, self.prompt.submit], start_duel, inputs, outputs, **BUSY)
        for winner, button in self.buttons.items():
            voted = [self.answer, self.texts, self.votes, self.standings, self.duel]
            button.click(self._vote_function(page, winner), [page.selection, self.duel], voted, **PRIVATE)
        offered = [self.answer, self.contenders, self.shown_for, self.standings, self.prompt, self.texts, self.votes,
                   self.duel]  # fmt: skip
        page.turn("generate")(offer_contenders, [page.selection, self.shown_for], offered, **FOLLOW)

    def _start(
        self,
        page: Page,
        selection: Selection,
        form: tuple[str, list[str], float | None, float | None],
        request: gr.Request,
    ) -> Iterator[Updates]:
        prompt, columns, tokens, temperature = form
        if not prompt.strip():
            raise ValueError("The prompt is empty: type what both should write about.")
        if tokens is None or temperature is None:
            raise ValueError("New tokens or temperature is empty: type a number.")
        if len(columns) > MAX_CONTENDERS:
            raise ValueError(f"{len(columns)} contenders are selected: select 2 to {MAX_CONTENDERS}.")
        named = [Contender(column, column_title(page, column)[0]) for column in columns]
        left, right = page.services.duels.draw(named)
        page.limits.check_text(request, [left.column, right.column], prompt, tokens)
        yield {**self._cleared(), self.answer: html.answer("Two contenders are chosen; they are loading.")}
        chat = page.services.models.can_chat(selection.model)
        duel = Duel(selection.model, prompt, left, right, chat)
        events = page.services.generation.generate(
            [left.column, right.column],
            [{"role": "user", "content": prompt}] if chat else prompt,
            int(tokens),
            float(temperature),
            page.services.duels.seed(MAX_SEED),
            selection.model,
            measured=False,
        )
        texts = {left.column: "", right.column: ""}
        for number_, event in enumerate(events):
            if hasattr(event, "text"):
                texts[event.column] += event.text
            if number_ % SHOW_EVERY == 0:
                yield {self.answer: html.answer("Both are writing. Their texts appear when both are done.")}
        duel = replace(duel, texts=texts)
        yield {
            self.answer: html.answer("Which text is better? The names appear after your vote."),
            self.texts: _shown(duel, revealed=None),
            self.votes: gr.update(visible=True),
            self.duel: duel,
        }

    def _vote_function(self, page: Page, winner: Winner) -> object:
        """The callback of one of the three buttons."""

        def vote(selection: Selection, duel: Duel | None, request: gr.Request) -> Updates:
            if duel is None:
                raise ValueError("This duel has your vote already: start a new one.")
            page.services.duels.vote(visitor_of(request), duel.model, duel.left.name, duel.right.name, winner)
            said = {"left": duel.left.name, "right": duel.right.name}.get(winner)
            thanks = f"You preferred {said}." if said else f"{duel.left.name} and {duel.right.name}: equally good."
            return {
                self.answer: html.answer(thanks),
                self.texts: _shown(duel, revealed=page),
                self.votes: gr.update(visible=False),
                self.standings: _standings(page, selection.model),
                self.duel: None,
            }

        vote.__name__ = f"vote_{winner}"
        return callback(self.answer)(vote)

    def _cleared(self) -> Updates:
        """The stage without a duel."""
        return {self.texts: html.empty(*EMPTY), self.votes: gr.update(visible=False), self.duel: None}


def build_duel_panel() -> DuelPanel:
    """Build the hidden view: form on the left, texts, votes and results on the right."""
    with gr.Row(elem_classes="abq-tab", visible=False) as view:
        with gr.Column(elem_classes="abq-choices"):
            prompt = gr.Textbox(PROMPT, label="Prompt", lines=3, max_lines=12, elem_id="duel-prompt")
            contenders = gr.Dropdown(
                [], label="Contenders (2 or more)", info="Each duel draws two of them.", multiselect=True,
                max_choices=MAX_CONTENDERS, elem_id="duel-contenders",
            )  # fmt: skip
            tokens = gr.Slider(8, 256, value=64, step=8, label="New tokens", elem_id="duel-tokens")
            temperature = gr.Slider(0, 1.5, value=0.4, step=0.1, label="Temperature", elem_id="duel-temperature")
            go = gr.Button("New duel", variant="primary", elem_id="duel-go")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="duel-answer", js_on_load=None)
            texts = gr.HTML(html.empty(*EMPTY), elem_id="duel-texts", js_on_load=None)
            with gr.Row(visible=False, elem_classes="abq-actions") as votes:
                buttons = {winner: gr.Button(text, elem_id=f"duel-{winner}") for winner, text in VOTES}
            standings = build_table("duel-standings")
    return DuelPanel(
        view, prompt, contenders, tokens, temperature, go, answer, texts, votes, buttons, standings, gr.State(None),
        gr.State(""),
    )  # fmt: skip


def _shown(duel: Duel, revealed: Page | None) -> str:
    """Both texts. revealed: show the names, which this page knows the lenses of."""
    sides = []
    for word, one in (("left", duel.left), ("right", duel.right)):
        title, lens = (word.capitalize(), "") if revealed is None else column_title(revealed, one.column)
        sides.append(_Side(word, title, lens, duel.texts[one.column]))
    return html.render("duel.html", prompt=duel.prompt, answers=duel.answers, sides=sides)


def _standings(page: Page, model: str) -> str:
    """The results of all duels of a model."""
    rows = page.services.duels.standings(model)
    headings = [
        Heading("contender", wraps=True), Heading("duels", numeric=True), Heading("won", numeric=True),
        Heading("lost", numeric=True), Heading("equal", numeric=True), Heading("share won", numeric=True),
        Heading("95 % interval", numeric=True),
    ]  # fmt: skip
    cells = [(str(row["contender"]), _cells(row)) for row in rows.to_dict("records")]
    return html.render(
        "duel_standings.html",
        votes=int(rows["duels"].sum()) // 2,
        enough=ENOUGH_VOTES,
        table=table(headings, cells, "How often each precision won", selectable=False),
    )


def _cells(row: dict[str, object]) -> list[Cell]:
    known = number(row["share"]) is not None
    interval = f"{percent(row['low'])} to {percent(row['high'])}" if known else MISSING
    counts = [Cell(count(row[name]), sort_number(row[name])) for name in ("duels", "won", "lost", "equal")]
    share = [Cell(percent(row["share"]), sort_number(row["share"])), Cell(interval, sort_number(row["low"]))]
    return [Cell(str(row["contender"])), *counts, *share]
