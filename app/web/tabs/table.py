"""A table of the page: sorts by a click on a heading, tells which row was chosen. All in it is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from app.web.tabs.script import PAGE_SCRIPT

NUMBER = ' class="abq-number"'


@dataclass(frozen=True)
class Cell:
    """What stands in a cell; `order` is what sorting goes by; `html` is trusted text of this program, else escaped."""

    text: str
    order: float | str | None = None
    html: bool = False

    def render(self, numeric: bool) -> str:
        order = self.text if self.order is None else self.order
        body = self.text if self.html else escape(self.text)
        side = NUMBER if numeric else ""
        return f'<td{side} data-order="{escape(str(order))}">{body}</td>'


@dataclass(frozen=True)
class Heading:
    """A column: its title (safe HTML), and whether it holds numbers."""

    title: str
    numeric: bool = False


def build_table(elem_id: str) -> gr.HTML:
    """A place for what `table` returns; its `select` event carries the row's key."""
    choose = "(key) => trigger('select', {index: 0, value: key})"
    return gr.HTML(
        "",
        head=PAGE_SCRIPT,
        js_on_load=f"window.abq.table(element, watch, {choose})",
        apply_default_css=False,
        elem_id=elem_id,
    )


def table(
    headings: Sequence[Heading],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    caption: str,
    chosen: str = "",
    selectable: bool = True,
) -> str:
    """HTML of a table. rows: (key, cells); the row whose key is `chosen` is marked."""
    head = "".join(
        f'<th scope="col"{NUMBER if heading.numeric else ""}><button type="button">{heading.title}</button></th>'
        for heading in headings
    )
    body = []
    for key, cells in rows:
        marks = f' data-key="{escape(key)}"' + (' tabindex="0"' if selectable else "")
        marks += ' aria-selected="true"' if key and key == chosen else ""
        columns = "".join(cell.render(heading.numeric) for heading, cell in zip(headings, cells, strict=True))
        body.append(f"<tr{marks}>{columns}</tr>")
    kind = "abq-table abq-selectable" if selectable else "abq-table"
    return (
        f'<div class="abq-scroll"><table class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
