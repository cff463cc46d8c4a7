"""The figure "Hadamard transform" of Explore: one linear before and after it, by block size, and its time here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import gradio as gr
import pandas as pd

from abq_core.precision import Precision
from app.figures.lenses.transform import transform_figure
from app.formatting import MISSING, number, percent, seconds
from app.services.lenses.transform import TIMED_TOKENS
from app.web import html
from app.web.page.callbacks import BUSY, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import framed
from app.web.page.selection import Selection
from app.web.page.table import Cell, Heading, sort_number, table
from kernels.formats.hadamard_block import LARGEST_BLOCK

if TYPE_CHECKING:
    from abq_core.analysis.transform import TransformTime

NAME = "Hadamard transform"
CAPTION = (
    "Look at the peaks in the upper row: the transform spreads the few channels that stretch the range of every token. "
    "A kurtosis of 3 is that of a normal distribution. Faint lines are single tokens (left) and outputs (right); the "
    "thick line is their median. Below: with an outlier most values share the few levels around zero."
)
MEASURES = ("kurtosis", "range", "snr_db")


class Widgets(NamedTuple):
    """The widgets of the figure, in a column that is hidden for other figures."""

    column: gr.Column
    size: gr.Dropdown
    measure: gr.Button


def build() -> Widgets:
    """Build the widgets in the current column."""
    with gr.Column(visible=False) as column:
        size = gr.Dropdown([], label="Block size", elem_id="explore-hadamard-block")
        measure = gr.Button("Measure its time here", size="sm", elem_id="explore-measure-transform")
    return Widgets(column, size, measure)


def shown(
    page: Page, selection: Selection, block: int, tensor: str, size: str | None
) -> tuple[str, str, dict[str, object]]:
    """The figure, the table below it, and the update of the block sizes.

    Raises ModelError, PrecisionError, ServiceError.
    """
    frames = page.services.lenses.transform.compare(
        selection.model, selection.precision, block, tensor, int(number(size) or 0)
    )
    rows, channels = frames["rows"], frames["channels"]
    sizes, width = sorted(set(rows["block"]) - {1}), int(channels["channel"].max()) + 1
    after = int(channels["block"].max())
    query = {"model": selection.model, "precision": selection.precision, "block": block, "tensor": tensor}
    tokens = page.services.lenses.inputs.of_block(selection.model, block).tokens
    figure = framed(
        transform_figure(rows, channels, frames["levels"], tokens, selection.dark),
        CAPTION,
        f"abq/lens/transform.csv?{urlencode(query)}",
        f"transform-{tensor}",
    )
    choices = [(f"{one} (all channels)" if one == width else str(one), str(one)) for one in sizes]
    return figure, _table(page, selection, block, tensor), gr.update(choices=choices, value=str(after))


def wire(page: Page, widgets: Widgets, answer: gr.HTML, detail: gr.HTML, place: list[gr.components.Component]) -> None:
    """Connect the button that measures. place: the widgets with block and linear."""

    @callback(answer)
    def measure_transform(selection: Selection, at: float | None, tensor: str | None) -> Iterator[Updates]:
        block, linear = int(at or 0), str(tensor)
        yield {answer: html.answer("Measuring the transform and the product in turn\N{HORIZONTAL ELLIPSIS}")}
        times = page.services.lenses.transform.time(selection.model, selection.precision, block, linear)
        said = html.render("transform_answer.html", times=times[0], largest=LARGEST_BLOCK)
        yield {detail: _table(page, selection, block, linear), answer: html.answer(said)}

    widgets.measure.click(measure_transform, [page.selection, *place], [answer, detail], **BUSY)


def _table(page: Page, selection: Selection, block: int, tensor: str) -> str:
    service = page.services.lenses.transform
    rows = service.compare(selection.model, selection.precision, block, tensor)["rows"]
    medians = rows.groupby(["block", "kind"])[list(MEASURES)].median()
    times = service.known_times(selection.model, selection.precision, block, tensor)
    headings = [
        Heading("block size"),
        *(Heading(f"{kind} {name}", numeric=True) for kind in ("activation", "weight")
          for name in ("kurtosis", "range", "SNR at 4 bits")),
        *(Heading(f"time, {tokens} token{'s' * (tokens > 1)}", numeric=True) for tokens in TIMED_TOKENS),
    ]  # fmt: skip
    lines = []
    for size in sorted(set(rows["block"])):
        cells = [Cell("before" if size == 1 else str(size), size)]
        for kind in ("activation", "weight"):
            cells += _measured(medians.loc[(size, kind)])
        found = {one.tokens: one for one in times}
        cells += [_time(found[tokens].blocks.get(size), found[tokens].product) if tokens in found else Cell(MISSING, "")
                  for tokens in TIMED_TOKENS]  # fmt: skip
        lines.append((str(size), cells))
    made = table(headings, lines, "Block sizes of the transform", selectable=False)
    at = page.services.models.precision(selection.precision).of_linear(block, tensor)
    return html.render("noted_table.html", table=made, note=_note(at, times))


def _measured(medians: pd.Series) -> list[Cell]:
    kurtosis, width, ratio = (medians[name] for name in MEASURES)
    return [
        Cell(f"{kurtosis:.2f}", sort_number(kurtosis)),
        Cell(f"{width:.3g}", sort_number(width)),
        Cell(f"{ratio:.1f} dB", sort_number(ratio)),
    ]


def _time(transform: float | None, product: float) -> Cell:
    """The transform's time and its share of the product's; before the transform, the product's time."""
    if transform is None:
        return Cell(f"product {seconds(product)}", 0.0)
    return Cell(f"{seconds(transform)}, {percent(transform / product)}", transform)


def _note(precision: Precision, times: "list[TransformTime]") -> str:
    timed = "Times are measured when you ask for them."
    if times:
        threads = f"{times[0].threads} thread{'s' * (times[0].threads > 1)}"
        timed = (
            f"Times: of the transform on {threads}, and its share of the packed product at {precision}, which reads "
            "its weight from memory."
        )
    return (
        f"Medians over tokens, or over outputs of the weight. {timed} The engine transforms blocks of up to "
        f"{LARGEST_BLOCK} channels; larger ones are shown for comparison."
    )
