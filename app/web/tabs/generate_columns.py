"""The columns that Generate offers for a model, and their titles."""

from typing import Any, NamedTuple

import gradio as gr

from app.figures.run_lenses import lens_of
from app.web.page.context import Page
from app.web.page.selection import Selection, run_choices
from storage.run_ids import means_run


class Offer(NamedTuple):
    """What a dropdown of columns shows for a selection.

    update: its choices and values.  key: what the selection is known by at the next offer.  new_model: the last offer
    was for another model, so what was written for it is out of date.
    """

    update: dict[str, Any]
    key: str
    new_model: bool


def offer_of(page: Page, selection: Selection, before: str, with_full: bool = True) -> Offer | None:
    """The offer for a selection, None if the last one, whose key is `before`, was for the same selection.

    with_full: offer full precision too.
    """
    key = f"{selection.model} {selection.precision} {selection.run}"
    if key == before:
        return None
    choices = _column_choices(page, selection)[0 if with_full else 1 :]
    known = {column for _, column in choices}
    chosen = [column for column in ("full", selection.precision, selection.run) if column in known]
    return Offer(gr.update(choices=choices, value=chosen), key, not before.startswith(f"{selection.model} "))


def _column_choices(page: Page, selection: Selection) -> list[tuple[str, str]]:
    """(label, column), of full precision first, of precisions that are rounded to nearest, and of the model's runs."""
    runs = page.services.runs.newest_frame()
    rounded = list(dict.fromkeys([selection.precision, "W8A8", "W4A8", "W4A4", "W2*A8", "W2A8"]))
    return [
        ("Full precision", "full"),
        *((f"{precision} rounded", precision) for precision in rounded),
        *run_choices(runs[runs["model"].eq(selection.model)]),
    ]


def column_title(page: Page, column: str) -> tuple[str, str]:
    """Title and lens of a column."""
    if column == "full":
        return "Full precision", "full"
    if not means_run(column):
        return f"{column} rounded", "rounded"
    run = page.services.runs.get(column)
    return f"{run.precision} {run.method}", lens_of(run.method)
