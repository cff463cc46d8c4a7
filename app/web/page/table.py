"""A table of the page: click a heading to sort, a row to select.

app/web/assets/page.js draws it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import gradio as gr
from markupsafe import Markup

from app.formatting import number
from app.web.html import render
from app.web.page.script import PAGE_SCRIPT


class Cell(NamedTuple):
    """A cell. text: escaped unless it is Markup.

    order: the sort key; without it rows sort by text.
    """

    text: str
    order: object = None

    @property
    def sort_key(self) -> str:
        """The value by which the column sorts, as text."""
        return str(self.text if self.order is None else self.order)


class Heading(NamedTuple):
    """A column. numeric: right-aligned.  wraps: long words break, so that the column can shrink.

    optional: hidden where the table is wider than the page, the largest number first; 0 for a column that always stays.
    The visitor can show and hide columns under the table.
    """

    title: str
    numeric: bool = False
    wraps: bool = False
    optional: int = 0


class Row(NamedTuple):
    """A row. key: carried by the table's `select` event."""

    key: str
    cells: Sequence[tuple[Heading, Cell]]


def build_table(elem_id: str) -> gr.HTML:
    """A component that shows what `table` returns.

    Its `select` event carries the key of the row.
    """
    select = "(key) => trigger('select', {index: 0, value: key})"
    return gr.HTML(
        "",
        head=PAGE_SCRIPT,
        js_on_load=f"window.abq.table(element, watch, {select})",
        apply_default_css=False,
        elem_id=elem_id,
    )


def table(
    headings: Sequence[Heading],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    caption: str,
    selected: str = "",
    selectable: bool = True,
) -> Markup:
    """HTML of a table. rows: (key, one cell per heading).  selected: key of the marked row."""
    aligned = [Row(key, list(zip(headings, cells, strict=True))) for key, cells in rows]
    return render(
        "table.html", headings=headings, rows=aligned, caption=caption, selected=selected, selectable=selectable
    )


def sort_number(value: object) -> float | str:
    """The sort key of a number; missing values sort last."""
    finite = number(value)
    return "" if finite is None else finite
