"""The figure "Level sets" of Explore: every format of one linear, and what it costs the model by simulation."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import gradio as gr
import pandas as pd

from app.figures.lenses.level_sets import level_sets_figure
from app.formatting import MISSING, count, nats, percent, perplexity
from app.services.models import COST_SEGMENTS, COST_SEQ_LEN
from app.web import html
from app.web.page.callbacks import BUSY, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import framed
from app.web.page.selection import Selection
from app.web.page.table import Cell, Heading, sort_number, table

if TYPE_CHECKING:
    from abq_core.evaluation.perplexity import Scores

NAME = "Level sets"
CAPTION = (
    "Look at one number of bits: what lies higher rounds with less error. Filled markers are formats that the engine "
    "multiplies with; outlines are only simulated here. Large markers have the scale with the least squared error in "
    "each group, small ones the scale of the group's largest weight. The group size is that of the precision above."
)
FIRST = "star W2*"
HEADINGS = [
    Heading("format"), Heading("levels", numeric=True, optional=1), Heading("bits with scales", numeric=True),
    Heading("SNR, largest weight", numeric=True), Heading("SNR, least error", numeric=True), Heading("runs here as"),
    Heading(html.term("perplexity"), numeric=True), Heading(html.term("KL"), numeric=True),
    Heading(html.term("same top token", "same top"), numeric=True),
]  # fmt: skip


class Choice(NamedTuple):
    """The values of the widgets: the format whose levels are drawn, and levels as typed."""

    name: str | None
    own: str | None


class Widgets(NamedTuple):
    """The widgets of the figure, in a column that is hidden for other figures."""

    column: gr.Column
    choice: Choice
    measure: gr.Button
    stop: gr.Button


def build(page: Page) -> Widgets:
    """Build the widgets in the current column."""
    with gr.Column(visible=False) as column:
        names = gr.Dropdown([FIRST], value=FIRST, label="Levels of", elem_id="explore-format")
        own = gr.Textbox(
            "", label="Own levels", placeholder="-3 -1 0 1 3", max_length=2000, elem_id="explore-own-levels",
            info="2 to 256 numbers; the scale stretches them over each group.",
        )  # fmt: skip
        measure = gr.Button("Measure perplexity by simulation", size="sm", elem_id="explore-measure-formats")
        stop = gr.Button("Stop", size="sm", elem_id="explore-stop-formats")
    return Widgets(column, Choice(names, own), measure, stop)


def shown(
    page: Page, selection: Selection, block: int, tensor: str, choice: Choice
) -> tuple[str, str, dict[str, object]]:
    """The figure, the table below it, and the update of the names.

    Raises ModelError, PrecisionError, LevelSetError, ServiceError.
    """
    own = (choice.own or "").strip()
    service = page.services.lenses.level_sets
    frames = service.compare(selection.model, selection.precision, block, tensor, own)
    names = list(dict.fromkeys(frames["formats"]["format"]))
    name = choice.name if choice.name in names else FIRST
    query = {"model": selection.model, "precision": selection.precision, "block": block, "tensor": tensor, "own": own}
    figure = framed(
        level_sets_figure(frames["formats"], frames["occupancy"], name, selection.dark),
        _caption(frames["formats"]),
        f"abq/lens/level-sets.csv?{urlencode(query)}",
        f"level-sets-{tensor}",
    )
    return figure, _table(page, selection, block, tensor, own), gr.update(choices=names, value=name)


def wire(page: Page, widgets: Widgets, answer: gr.HTML, detail: gr.HTML, place: list[gr.components.Component]) -> None:
    """Connect the button that measures. place: the widgets with block and linear."""

    @callback(answer)
    def measure_formats(
        selection: Selection, at: float | None, tensor: str | None, own: str | None
    ) -> Iterator[Updates]:
        block, typed = int(at or 0), (own or "").strip()
        service = page.services.lenses.level_sets
        size = service.group_size(selection.precision, block, str(tensor))
        formats = service.formats(typed)
        for done, one in enumerate(formats, start=1):
            said = f"Simulating {one.name}, {done} of {len(formats)}: all linear layers{html.ELLIPSIS}"
            yield {answer: html.answer(said)}
            service.cost(selection.model, one, size)
            yield {detail: _table(page, selection, block, str(tensor), typed)}
        yield {answer: html.answer(_measured(page, selection, size, typed))}

    inputs = [page.selection, *place, widgets.choice.own]
    measuring = widgets.measure.click(measure_formats, inputs, [answer, detail], **BUSY)
    stopped = html.answer("Stopped. The measured formats are kept.")
    widgets.stop.click(lambda: stopped, None, answer, cancels=[measuring], **PRIVATE)


def _caption(formats: pd.DataFrame) -> str:
    return f"{CAPTION} SNR of {count(formats['rows'].iloc[0])} rows, evenly spaced."


def _measured(page: Page, selection: Selection, size: int | None, own: str) -> str:
    """One sentence about the formats with the least KL: of the engine, and of those that are only simulated."""
    service = page.services.lenses.level_sets
    known = [(one, service.known_cost(selection.model, one, size)) for one in service.formats(own)]
    found = [(one, scores) for one, scores in known if scores is not None]
    best = [
        min((pair for pair in found if pair[0].is_fast is fast), key=lambda pair: pair[1].kl_mean)
        for fast in (True, False)
    ]
    return html.render("level_sets_answer.html", best=best)


def _table(page: Page, selection: Selection, block: int, tensor: str, own: str) -> str:
    service = page.services.lenses.level_sets
    formats = service.compare(selection.model, selection.precision, block, tensor, own)["formats"]
    size = service.group_size(selection.precision, block, tensor)
    costs = {one.name: service.known_cost(selection.model, one, size) for one in service.formats(own)}
    ratios = formats.pivot(index="format", columns="scale", values="snr_db")
    rows = [
        (row["format"], _cells(row, ratios.loc[row["format"]], costs[row["format"]]))
        for row in formats.drop_duplicates("format").to_dict("records")
    ]
    made = table(HEADINGS, rows, "Formats of this linear layer", selectable=False)
    note = (
        f"Perplexity, KL and same top token: all linear layers of the model in this format, weights alone, on "
        f"{COST_SEGMENTS} segments of {COST_SEQ_LEN} held-out tokens. Compare formats by KL: the standard error of the "
        "perplexity is mostly the spread of the texts, which is the same for all formats."
    )
    return html.render("noted_table.html", table=made, note=note)


def _cells(row: dict[str, object], ratios: pd.Series, scores: "Scores | None") -> list[Cell]:
    measured = [
        Cell(MISSING if scores is None else perplexity(scores.perplexity, scores.perplexity_stderr),
             "" if scores is None else sort_number(scores.perplexity)),
        Cell(MISSING if scores is None else nats(scores.kl_mean), "" if scores is None else scores.kl_mean),
        Cell(MISSING if scores is None else percent(scores.same_top), "" if scores is None else scores.same_top),
    ]  # fmt: skip
    return [
        Cell(str(row["format"])),
        Cell(count(row["levels"]), row["levels"]),
        Cell(f"{row['bits']:.2f}", row["bits"]),
        *(Cell(f"{ratios[scale]:.1f} dB", sort_number(ratios[scale])) for scale in ("largest", "least error")),
        Cell("fast, by the engine" if row["fast"] else "simulated only"),
        *measured,
    ]
