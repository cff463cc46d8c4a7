"""The figure "Bit planes" of Explore: a tile of a weight plane by plane, and one dot product in integers."""

from typing import NamedTuple
from urllib.parse import urlencode

import gradio as gr

from abq_core.precision import Precision
from app.figures.lenses.bit_planes import bit_planes_figure
from app.services.lenses.bit_planes import Place
from app.services.lenses.inputs import TOKENS
from app.web import html
from app.web.page.context import Page
from app.web.page.picture import framed
from app.web.page.selection import Selection

NAME = "Bit planes"
CAPTION = (
    "Look at the middle row: the highest plane gives a coarse picture of the weights, and each further plane adds "
    "detail, without a star about 6 dB. Planes that are not read count as the middle of their codes. The counts at the "
    "lower right are all that a product needs: the table below adds them up."
)
GROWS = 2.0  # two rows of square pictures share the width


class Tile(NamedTuple):
    """The values of the widgets: the first row and column of the tile, and the token of the product."""

    row: float | None
    column: float | None
    token: float | None

    def place(self, block: int, tensor: str) -> Place:
        """The place in the model; empty widgets count as 0."""
        row, column, token = (max(0, int(value or 0)) for value in self)
        return Place(block, tensor, row, column, token)


class Widgets(NamedTuple):
    """The widgets of the figure, in a column that is hidden for other figures."""

    column: gr.Column
    tile: Tile


def build() -> Widgets:
    """Build the widgets in the current column."""
    with gr.Column(visible=False) as column:
        with gr.Row():
            row = gr.Number(0, label="Row", precision=0, minimum=0, min_width=80, elem_id="explore-row")
            first = gr.Number(0, label="First column", precision=0, minimum=0, min_width=80, elem_id="explore-column")
        token = gr.Slider(
            0, TOKENS - 1, value=TOKENS - 1, step=1, label="Token of the product", elem_id="explore-token"
        )
    return Widgets(column, Tile(row, first, token))


def shown(page: Page, selection: Selection, place: Place, precision: Precision) -> tuple[str, str]:
    """The figure and the product below it; for weights of 16 bits a sentence.

    precision: of the linear at `place`. Raises ModelError, PrecisionError, ServiceError.
    """
    if not precision.quantizes_weights:
        text = "At this precision weights keep 16 bits, so there are no integer codes. Choose fewer weight bits above."
        return "", html.empty("No bit planes", text)
    lens = page.services.lenses.bit_planes.read(selection.model, selection.precision, place)
    grid = "balanced" if precision.balanced else "rounded"
    query = {"model": selection.model, "precision": selection.precision, **place._asdict()}
    csv = f"abq/lens/bit-planes.csv?{urlencode(query)}"
    figure = framed(
        bit_planes_figure(lens, selection.dark, grid),
        CAPTION,
        csv,
        f"bit-planes-{selection.precision}",
        GROWS / (lens.planes + 1),
    )
    if lens.product is None:
        text = "This expert reads none of the tokens. Choose another linear layer to see a product."
        return figure, html.empty("No product", text)
    tokens = page.services.lenses.inputs.of_block(selection.model, place.block).tokens
    token = min(place.token, len(tokens) - 1)
    detail = html.render(
        "bit_product.html",
        product=lens.product,
        row=min(place.row, lens.rows - 1),
        token=f"{token} ({tokens[token]!r})",
        assumed_bits=0 if precision.quantizes_activations else len(lens.product.counts),
    )
    return figure, detail
