"""The choice of a text, among them texts that the visitor pastes or uploads."""

from typing import NamedTuple

import gradio as gr
from gradio.events import Dependency

from abq_core.text.sources import BUILTIN_TEXT, NAMES
from app.web import html
from app.web.access.login import account_of
from app.web.access.visitor_texts import KEPT_DAYS, MAX_TEXT_BYTES
from app.web.page.callbacks import FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.script import PAGE_SCRIPT
from app.web.page.selection import Selection

FILES = "A name from the list, or a .txt or .jsonl file in an allowed folder."


class TextChoice(NamedTuple):
    """The dropdown, the panel that adds a text, and the button that deletes the chosen one."""

    data: gr.Dropdown
    add: gr.HTML
    delete: gr.Button


def build_text_choice(prefix: str, label: str, info: str = FILES) -> TextChoice:
    """Build the widgets in the current column. prefix: of their ids."""
    data = gr.Dropdown(
        list(NAMES), value=BUILTIN_TEXT, allow_custom_value=True, elem_id=f"{prefix}-data", label=label, info=info,
    )  # fmt: skip
    add = gr.HTML(
        html.render(
            "own_text.html", most=MAX_TEXT_BYTES, days=KEPT_DAYS,
            readers="With a login only your account can use it, otherwise every visitor of this page.",
        ),
        head=PAGE_SCRIPT,
        js_on_load="window.abq.ownText(element, (path) => trigger('select', {index: 0, value: path}))",
        elem_id=f"{prefix}-own-text",
    )  # fmt: skip
    delete = gr.Button("Delete this text", size="sm", visible=False, elem_id=f"{prefix}-delete-text")
    return TextChoice(data, add, delete)


def wire_text_choice(page: Page, answer: gr.HTML, choice: TextChoice, tab: str) -> Dependency:
    """List the visitor's own texts in the dropdown. Returns the event that chooses a text that was just added.

    tab: the one that has the widgets.
    """
    data, add, delete = choice

    def shown(request: gr.Request, chosen: str | None, **changes: object) -> Updates:
        own = page.texts.of(account_of(request))
        choices = [*((name, name) for name in NAMES), *((f"{name} (your text)", path) for name, path in own)]
        is_own = chosen in {path for _, path in own}
        return {data: gr.update(choices=choices, **changes), delete: gr.update(visible=is_own)}

    @callback(answer, tab=tab)
    def show(_: Selection, chosen: str | None, request: gr.Request) -> Updates:
        return shown(request, chosen)

    @callback(answer)
    def choose(_: Selection, event: gr.SelectData, request: gr.Request) -> Updates:
        return shown(request, str(event.value), value=str(event.value))

    @callback(answer)
    def remove(_: Selection, chosen: str | None, request: gr.Request) -> Updates:
        page.texts.remove(account_of(request), chosen or "")
        return {**shown(request, None, value=BUILTIN_TEXT), answer: html.answer("The text is deleted.")}

    inputs, outputs = [page.selection, data], [answer, data, delete]
    page.turn(tab)(show, inputs, outputs, **FOLLOW)
    data.input(show, inputs, outputs, trigger_mode="multiple", **PRIVATE)
    delete.click(remove, inputs, outputs, **PRIVATE)
    return add.select(choose, page.selection, outputs, **PRIVATE)
