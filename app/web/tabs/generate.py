"""The Generate tab: two to four columns decode the same prompt, or answer the same messages, at the same time.

Shows the effect of quantization on text.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gradio as gr

from app.web import html
from app.web.limits import MAX_COLUMNS
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback, event
from app.web.page.context import Page
from app.web.page.conversation import Conversation
from app.web.page.selection import Selection
from app.web.page.streams import Streams
from app.web.tabs.document_panel import build_document_panel
from app.web.tabs.duel_panel import build_duel_panel
from app.web.tabs.generate_columns import column_title, offer_of
from app.web.tabs.generate_form import CHAT, CONTINUE, FIRST, Form, generate_command

SHOW_EVERY_SECONDS = 0.12
SIDE_BY_SIDE, DUEL, DOCUMENT = "Side by side", "Duel: which is better?", "Document: where does it differ?"
PREPARING, WRITING = "Preparing the columns\N{HORIZONTAL ELLIPSIS}", "Writing\N{HORIZONTAL ELLIPSIS}"
EMPTY = (
    "Compare text side by side",
    "Press Generate to decode the prompt in all columns at once. The first token that differs is marked, and every "
    "token is shaded by the KL divergence of its column from full precision. Hover over a token, or use the arrow "
    "keys, to see its candidates in every column.",
)
EMPTY_CHAT = (
    "Chat side by side",
    "Send a message to all columns at once. Each column continues its own conversation: it reads its own earlier "
    "answers, as if it were your only model. Other columns, another model or another system prompt start a new "
    "conversation.",
)


class _Widgets(NamedTuple):
    """The widgets of the tab, and what it remembers of a page: the selection it shows, and its conversation."""

    form: Form
    go: gr.Button
    stop: gr.Button
    new: gr.Button
    command: gr.HTML
    answer: gr.HTML
    streams: gr.HTML
    shown_for: gr.State
    conversation: gr.State

    @property
    def of_mode(self) -> list[Any]:
        """The widgets that `in_mode` updates."""
        form = self.form
        return [
            form.prompt, form.message, form.system, self.new, self.go, self.answer, self.streams, self.conversation
        ]  # fmt: skip

    def in_mode(self, mode: str) -> Updates:
        """Show the widgets of this mode, without a text or conversation."""
        chat = mode == CHAT
        return {
            self.form.prompt: gr.update(visible=not chat),
            self.form.message: gr.update(visible=chat),
            self.form.system: gr.update(visible=chat),
            self.new: gr.update(visible=chat),
            self.go: gr.update(value="Send" if chat else "Generate"),
            self.answer: html.answer(html.BLANK, "generate"),
            self.streams: html.empty(*(EMPTY_CHAT if chat else EMPTY)),
            self.conversation: None,
        }


def build_generate_tab(page: Page) -> None:
    """The form on the left, the text on the right. Two more views: the duel, and the document."""
    view = gr.Radio(
        [SIDE_BY_SIDE, DUEL, DOCUMENT], value=SIDE_BY_SIDE, show_label=False, container=False, elem_id="generate-view"
    )
    widgets, side_by_side = _build_widgets()
    duel, document = build_duel_panel(), build_document_panel()
    form, answer = widgets.form, widgets.answer

    @callback(answer, tab="generate")
    def offer(selection: Selection, before: str) -> Updates:
        """Offer the columns and modes of this selection, and select its own when it changes."""
        offered = offer_of(page, selection, before)
        if offered is None:
            return {}
        updates = {form.columns: offered.update, widgets.shown_for: offered.key}
        if not offered.new_model:
            return updates
        mode = CHAT if page.services.models.can_chat(selection.model) else CONTINUE
        updates |= {form.mode: gr.update(value=mode, visible=mode == CHAT), **widgets.in_mode(mode)}
        return updates | _example_text(page, widgets, selection, offered.update["value"])

    @callback(answer)
    def write(selection: Selection, request: gr.Request, earlier: Any, *values: Any) -> Iterator[Updates]:
        yield from _write(page, widgets, selection, request, earlier, Form(*values))

    @callback(answer, tab="generate")
    def show_command(selection: Selection, *values: Any) -> Updates:
        return {widgets.command: generate_command(selection.model, Form(*values))}

    @callback(answer, tab="generate")
    def start_over(selection: Selection, mode: str) -> Updates:
        return widgets.in_mode(mode)

    @event
    def choose_generate_view(name: str) -> Updates:
        return {one: gr.update(visible=name == label) for label, one in views.items()}

    views = {SIDE_BY_SIDE: side_by_side, DUEL: duel.view, DOCUMENT: document.view}
    view.change(choose_generate_view, view, [*views.values()], **PRIVATE)
    outputs = [form.columns, widgets.shown_for, form.mode, *widgets.of_mode]
    page.turn("generate")(offer, [page.selection, widgets.shown_for], outputs, **FOLLOW)
    duel.wire(page)
    document.wire(page)
    inputs = [page.selection, widgets.conversation, *form]
    outputs = [answer, widgets.streams, widgets.conversation, form.message]
    starts = [widgets.go.click, form.prompt.submit, form.message.submit]
    writing = gr.on(starts, write, inputs, outputs, **BUSY)
    widgets.stop.click(None, cancels=[writing], **PRIVATE)
    for starting_over in (form.mode.input, widgets.new.click):
        starting_over(start_over, [page.selection, form.mode], widgets.of_mode, cancels=[writing], **PRIVATE)
    edited = [widget.change for widget in form]
    inputs = [page.selection, *form]
    gr.on(edited, show_command, inputs, [answer, widgets.command], **FOLLOW)


def _example_text(page: Page, widgets: _Widgets, selection: Selection, columns: Sequence[str]) -> Updates:
    """The text that came with the examples, if these columns wrote it."""
    from app.services.texts.example_text import ExampleText

    text = ExampleText.read()
    if not text.is_of(selection.model, columns):
        return {}
    streams = Streams(text.prompt, {column: column_title(page, column) for column in columns}, recorded=True)
    for token in text.tokens:
        streams.add(token)
    said = html.render("example_text.html", summary=streams.summary())
    return {widgets.answer: html.answer(said, "generate"), widgets.streams: streams.html()}


def _write(
    page: Page, widgets: _Widgets, selection: Selection, request: gr.Request, earlier: Conversation | None, form: Form
) -> Iterator[Updates]:
    """Generate with the form's values, and show the text while it grows."""
    columns = form.columns or []
    if not 2 <= len(columns) <= MAX_COLUMNS:
        raise ValueError(f"{len(columns)} columns are selected: select 2 to {MAX_COLUMNS}.")
    if form.tokens is None or form.temperature is None:
        raise ValueError("New tokens or temperature is empty: type a number.")
    page.limits.check_text(request, columns, form.text, form.tokens)
    yield {widgets.answer: html.answer(PREPARING)}
    titles = {column: column_title(page, column) for column in columns}
    chat = None
    if form.mode == CHAT:
        chat = Conversation(selection.model, form.system or "", titles, form.follow).asked(form.message or "", earlier)
        prompt, turn, shown = chat.messages(), chat.newest, chat.html
    else:
        turn = Streams(form.prompt or "", titles, form.follow)
        prompt, shown = turn.prompt, turn.html
    events = page.services.generation.generate(
        columns,
        prompt,
        int(form.tokens),
        float(form.temperature),
        int(form.seed or 0),
        selection.model,
        follow=form.follow,
    )
    if chat is not None:  # the answers are added to this object, so a stopped answer stays in the conversation
        yield {widgets.conversation: chat, widgets.form.message: "", widgets.streams: shown()}
    shown_at = 0.0
    for token in events:
        turn.add(token)
        if time.monotonic() - shown_at >= SHOW_EVERY_SECONDS:
            shown_at = time.monotonic()
            yield {widgets.answer: html.answer(WRITING), widgets.streams: shown()}
    yield {widgets.answer: html.answer(turn.summary(), "generate"), widgets.streams: shown()}


def _build_widgets() -> tuple[_Widgets, gr.Row]:
    """The widgets of the first view, and its row."""
    with gr.Row(elem_classes="abq-tab") as view:
        with gr.Column(elem_classes="abq-choices"):
            form = _build_form()
            with gr.Row():
                go = gr.Button("Generate", variant="primary", min_width=80, elem_id="generate-go")
                stop = gr.Button("Stop", min_width=80, elem_id="generate-stop")
            new = gr.Button("New conversation", size="sm", visible=False, elem_id="generate-new")
            command = gr.HTML("", js_on_load=None)
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK, "generate"), elem_id="generate-answer", js_on_load=None)
            streams = gr.HTML(html.empty(*EMPTY), elem_id="generate-streams", js_on_load=None)
    return _Widgets(form, go, stop, new, command, answer, streams, gr.State(""), gr.State(None)), view


def _build_form() -> Form:
    """The widgets of the form. A model without a chat template shows only the prompt."""
    return Form(
        mode=gr.Radio(
            [CHAT, CONTINUE], value=FIRST.mode, label="Mode", visible=False, elem_id="generate-mode",
            info="Chat uses the model's chat template.",
        ),
        prompt=gr.Textbox(FIRST.prompt, label="Prompt", lines=5, max_lines=12, elem_id="generate-prompt"),
        message=gr.Textbox(
            FIRST.message, label="Message", lines=1, max_lines=12, visible=False, elem_id="generate-message",
            info="Enter sends, Shift+Enter starts a new line.",
        ),
        system=gr.Textbox(
            FIRST.system, label="System prompt", lines=1, max_lines=8, visible=False, elem_id="generate-system",
            placeholder="The default of the template",
        ),
        columns=gr.Dropdown(
            [], label="Columns (2 to 4)", multiselect=True, max_choices=MAX_COLUMNS, elem_id="generate-columns"
        ),
        follow=gr.Checkbox(
            FIRST.follow, label="Follow the first column", elem_id="generate-follow",
            info="All columns read its text, so that KL compares token by token.",
        ),
        tokens=gr.Slider(8, 256, value=FIRST.tokens, step=8, label="New tokens", elem_id="generate-tokens"),
        temperature=gr.Slider(
            0, 1.5, value=FIRST.temperature, step=0.1, label="Temperature", info="0 takes the most likely token.",
            elem_id="generate-temperature",
        ),
        seed=gr.Number(FIRST.seed, label="Seed", precision=0, elem_id="generate-seed"),
    )  # fmt: skip
