"""The Explore tab: the effect of a precision on the weights, before any calibration."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import pandas as pd
import plotly.graph_objects as go

from abq_core.mix import ModelPrecision, PrecisionMix
from app.figures.histograms import level_figure, weight_figure
from app.figures.signal import outlier_figure, signal_figure
from app.formatting import bits, size, stored_weights
from app.web import html
from app.web.page.callbacks import FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.table import build_table
from app.web.tabs.lenses import bit_planes, level_sets, transform
from app.web.tabs.table_bits import build_table_bits

FRAMES = {"Weights": "histograms", "Levels": "levels", "Signal to noise": "linears", "Outlier channels": "outliers"}
PICTURES = [*FRAMES, bit_planes.NAME, level_sets.NAME, transform.NAME]
CAPTIONS = {
    "Weights": "Look at the spacing of the rounded peaks: every weight moves to the nearest level of its row. "
    "The lower panel shows the share of weights at each level.",
    "Signal to noise": "Look for the lightest cells: rounding loses most there. 6 dB more halves the error.",
    "Outlier channels": "Look for channels far above the rest: they stretch the range that a row's weights share.",
}


def build_explore_tab(page: Page) -> None:
    """Choices on the left, the figure on the right."""
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            picture = gr.Radio(PICTURES, value="Weights", label="Figure", elem_id="explore-picture")
            block = gr.Slider(0, 1, value=0, step=1, label="Block", elem_id="explore-block")
            tensor = gr.Dropdown([], label="Linear layer", elem_id="explore-tensor")
            planes = bit_planes.build()
            sets = level_sets.build(page)
            mixing = transform.build()
            facts = gr.HTML("", js_on_load=None)
            table_bits = gr.Column()
            calibrate = gr.Button("Calibrate this precision", variant="primary", elem_id="explore-calibrate")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(
                html.answer("Loading the model\N{HORIZONTAL ELLIPSIS}"), elem_id="explore-answer", js_on_load=None
            )
            figure = build_picture("explore-figure")
            detail = build_table("explore-detail")

    @callback(answer, tab="explore")
    def show(selection: Selection, name: str, at: float | None, linear: str | None, *values: Any) -> Updates:
        frames = page.services.models.explore(selection.model, selection.precision)
        precision = page.services.models.precision(selection.precision)
        linears = frames["linears"]
        names = list(dict.fromkeys(linears["tensor"]))
        last = int(linears["block"].max())
        number = min(max(int(at or 0), 0), last)
        linear = linear if linear in names else names[0]
        by_linear = name != "Signal to noise"
        tile, choice, size = bit_planes.Tile(*values[:3]), level_sets.Choice(*values[3:5]), values[5]
        formats, sizes, below = gr.skip(), gr.skip(), ""
        if name == bit_planes.NAME:
            of_linear = precision.of_linear(number, linear)
            drawn, below = bit_planes.shown(page, selection, tile.place(number, linear), of_linear)
        elif name == level_sets.NAME:
            drawn, below, formats = level_sets.shown(page, selection, number, linear, choice)
        elif name == transform.NAME:
            drawn, below, sizes = transform.shown(page, selection, number, linear, size)
        else:
            drawn = _framed(selection, precision, frames, name, number, linear)
        return {
            answer: html.answer(_answer(page, selection, precision, linears), "explore"),
            figure: drawn,
            detail: below,
            planes.column: gr.update(visible=name == bit_planes.NAME),
            sets.column: gr.update(visible=name == level_sets.NAME),
            mixing.column: gr.update(visible=name == transform.NAME),
            sets.choice.name: formats,
            mixing.size: sizes,
            facts: _facts(page, selection),
            block: gr.update(maximum=max(last, 1), value=number, interactive=by_linear),
            tensor: gr.update(choices=names, value=linear, interactive=by_linear),
        }

    inputs = [page.selection, picture, block, tensor, *planes.tile, *sets.choice, mixing.size]
    outputs = [answer, figure, detail, facts, block, tensor, planes.column, sets.column, mixing.column,
               sets.choice.name, mixing.size]  # fmt: skip
    page.turn("explore")(show, inputs, outputs, **{**FOLLOW, "show_progress": "minimal"}, show_progress_on=figure)
    typed = sets.choice.own  # read when it is complete, not at every key
    edited = [widget.input for widget in inputs[1:] if widget is not typed]
    gr.on([*edited, typed.submit, typed.blur], show, inputs, outputs, **FOLLOW)
    level_sets.wire(page, sets, answer, detail, [block, tensor])
    transform.wire(page, mixing, answer, detail, [block, tensor])
    calibrate.click(lambda: gr.Tabs(selected="calibrate"), None, page.tabs, **PRIVATE)
    with table_bits:  # last: its function starts after that of the figure
        build_table_bits(page, answer)


def _framed(
    selection: Selection,
    precision: ModelPrecision,
    frames: Mapping[str, pd.DataFrame],
    picture: str,
    block: int,
    tensor: str,
) -> str:
    bits = precision.of_linear(block, tensor)
    caption = CAPTIONS.get(picture) or (
        f"Compare the ends: without bit balance a row has {2**bits.weight_bits} levels, placed by its zero point; "
        f"with bit balance every row has {2**bits.weight_bits + 1}, symmetric around zero."
    )
    grid = "balanced" if bits.balanced else "rounded"
    figure = _figure(frames, picture, (block, tensor), grid, selection.dark)
    query = urlencode({"model": selection.model, "precision": selection.precision})
    name = FRAMES[picture]
    return framed(figure, caption, f"abq/explore/{name}.csv?{query}", f"{name}-{selection.precision}")


def _figure(
    frames: Mapping[str, pd.DataFrame], picture: str, linear: tuple[int, str], grid: str, dark: bool
) -> go.Figure:
    """The figure named `picture`. linear: block and tensor.

    grid: the lens of the levels that the weights use.
    """
    match picture:
        case "Weights":
            return weight_figure(frames["histograms"], frames["levels"], *linear, dark, grid)
        case "Levels":
            return level_figure(frames["levels"], *linear, dark)
        case "Signal to noise":
            return signal_figure(frames["linears"], dark)
        case _:
            return outlier_figure(frames["outliers"], *linear, dark)


def _answer(page: Page, selection: Selection, precision: ModelPrecision, linears: pd.DataFrame) -> str:
    stored = page.services.models.stored_weights(selection.model)
    weights = stored_weights(stored) if stored is not None and stored.quantized else ""
    if not precision.quantizes_weights:
        return html.render("explore_full.html", precision=precision, weights=weights)
    mix = Counter(str(one.precision) for one in precision.linears) if isinstance(precision, PrecisionMix) else {}
    estimate = page.services.models.estimate(selection.model, precision)
    return html.render(
        "explore_answer.html",
        precision=precision,
        weights=weights,
        mix=sorted(mix.items()),
        ratio=estimate.linears_ratio,
        bits_per_parameter=estimate.bits_per_parameter,
        median_db=linears["weight_snr_db"].median(),
        lowest=linears.loc[linears["weight_snr_db"].idxmin()],
    )


def _facts(page: Page, selection: Selection) -> str:
    shape = page.services.models.shape(selection.model)
    estimate = page.services.models.estimate(selection.model, selection.precision)
    return html.facts(
        [
            ("family", shape.family),
            ("parameters", f"{shape.parameters / 1e6:,.1f} M"),
            ("blocks", f"{shape.blocks}, width {shape.hidden}"),
            ("attention heads", f"{shape.heads}, {shape.kv_heads} KV"),
            *([] if shape.stored is None else [("weights in the file", stored_weights(shape.stored))]),
            ("size in FP16", size(estimate.full_bytes)),
            ("quantized size", size(estimate.quantized_bytes)),
            ("embedding and LM head", size(estimate.size.embedding + estimate.size.head)),
            ("bits per parameter", bits(estimate.bits_per_parameter)),
            ("memory to calibrate", f"about {size(estimate.peak_memory_bytes)}"),
        ]
    )
