"""Explore: what would this precision do to this model? No calibration needed."""

from collections import Counter
from urllib.parse import urlencode

import gradio as gr
import pandas as pd

from abq_core.mix import ModelPrecision, PrecisionMix
from abq_core.precision import Precision
from app import formatting
from app.figures.base import empty_figure
from app.figures.histograms import level_figure, weight_figure
from app.figures.signal import outlier_figure, signal_figure
from app.web.tabs import words
from app.web.tabs.guard import guarded
from app.web.tabs.jobs_panel import PRIVATE
from app.web.tabs.page import Page
from app.web.tabs.picture import build_picture, framed
from app.web.tabs.selection import Selection

PICTURES = ["Weights", "Levels", "Signal to noise", "Outlier channels"]
FRAMES = {"Weights": "histograms", "Levels": "levels", "Signal to noise": "linears", "Outlier channels": "outliers"}


def build_explore_tab(page: Page) -> None:
    """Choices on the left; the picture they ask for on the right."""
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            picture = gr.Radio(PICTURES, value="Weights", label="Picture", elem_id="explore-picture")
            block = gr.Slider(0, 1, value=0, step=1, label="Block", elem_id="explore-block")
            tensor = gr.Dropdown([], label="Linear", elem_id="explore-tensor")
            facts = gr.HTML("", js_on_load=None)
            go = gr.Button("Calibrate this precision", variant="primary", elem_id="explore-calibrate")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(words.answer("Reading the model&hellip;"), elem_id="explore-answer", js_on_load=None)
            figure = build_picture("explore-figure")

    outputs = [answer, figure, facts, block, tensor]

    @guarded(len(outputs))
    def show(text: str, picture: str, block: float, tensor: str | None) -> list[object]:
        selection = Selection.from_json(text)
        if selection.tab != "explore":
            return [gr.skip()] * len(outputs)
        frames = page.services.models.explore(selection.model, selection.precision)
        linears = frames["linears"]
        names = list(dict.fromkeys(linears["tensor"]))
        last = int(linears["block"].max())
        place = min(max(int(block or 0), 0), last), tensor if tensor in names else names[0]
        return [
            words.answer(_answer(page, selection, linears)),
            _picture(page, selection, frames, picture, *place),
            _facts(page, selection),
            gr.update(maximum=max(last, 1), value=place[0], interactive=picture != "Signal to noise"),
            gr.update(choices=names, value=place[1], interactive=picture != "Signal to noise"),
        ]

    inputs = [page.selection, picture, block, tensor]
    page.selection.change(
        show, inputs, outputs, api_visibility="private", show_progress="minimal", show_progress_on=figure
    )
    gr.on([picture.input, block.input, tensor.input], show, inputs, outputs, trigger_mode="always_last", **PRIVATE)
    go.click(lambda: gr.Tabs(selected="calibrate"), None, page.tabs, api_visibility="private", show_progress="hidden")


def _picture(
    page: Page, selection: Selection, frames: dict[str, pd.DataFrame], picture: str, block: int, tensor: str
) -> str:
    dark, own = selection.dark, page.services.models.precision(selection.precision).of_linear(block, tensor)
    if picture == "Weights":
        figure = weight_figure(frames["histograms"], frames["levels"], block, tensor, dark, _grid(own))
        caption = (
            "Look at how far apart the rounded peaks stand: every weight moves to the nearest of its row's levels. "
            "Below, how many weights each level holds."
        )
    elif picture == "Levels":
        figure = level_figure(frames["levels"], block, tensor, dark)
        plain = 2**own.weight_bits
        caption = (
            f"Look at the ends: without a star a row has {plain} levels, which lie where its zero point puts them; "
            f"with bit balance every row has the same {plain + 1}, symmetric around zero."
        )
    elif picture == "Signal to noise":
        figure = signal_figure(frames["linears"], dark)
        caption = "Look for the lightest cells: there rounding loses most. 6 dB more is half the error."
    elif picture == "Outlier channels":
        figure = outlier_figure(frames["outliers"], block, tensor, dark)
        caption = "Look for channels far above the others: they stretch the range that all weights of a row must share."
    else:
        return framed(empty_figure("Choose a picture.", dark), "")
    query = urlencode({"model": selection.model, "precision": selection.precision})
    name = FRAMES[picture]
    return framed(figure, caption, f"abq/explore/{name}.csv?{query}", f"{name}-{selection.precision}")


def _grid(precision: Precision) -> str:
    """Whose integer levels the rounded weights stand on."""
    return "balanced" if precision.balanced else "rounded"


def _answer(page: Page, selection: Selection, linears: pd.DataFrame) -> str:
    precision = page.services.models.precision(selection.precision)
    name = words.escape(str(precision))
    if not precision.quantizes_weights:
        return f"{name} keeps the weights as they are: choose fewer weight bits to see rounding."
    estimate = page.services.models.estimate(selection.model, precision)
    weakest = linears.loc[linears["weight_snr_db"].idxmin()]
    return (
        f"<b>{name}</b> gives {_levels(precision)} and makes the linears' weights "
        f"<b>{estimate.linears_ratio:.1f} times</b> smaller than in FP16. "
        f"Median {words.term('SNR')} {linears['weight_snr_db'].median():.1f} dB; the weakest linear is "
        f"{words.escape(str(weakest['tensor']))} in block {weakest['block']} with {weakest['weight_snr_db']:.1f} dB."
    )


def _levels(precision: ModelPrecision) -> str:
    if isinstance(precision, PrecisionMix):
        counts = Counter(str(one.precision) for one in precision.linears)
        shares = ", ".join(f"{words.escape(name)} {count} times" for name, count in sorted(counts.items()))
        return f"each of its {len(precision.linears)} linears a precision of its own ({shares})"
    balanced = f" ({words.term('bit balance')})" if precision.balanced else ""
    return f"every weight one of <b>{precision.levels}</b> levels{balanced}"


def _facts(page: Page, selection: Selection) -> str:
    shape = page.services.models.shape(selection.model)
    estimate = page.services.models.estimate(selection.model, selection.precision)
    return words.facts(
        [
            ("family", words.escape(shape.family)),
            ("parameters", f"{shape.parameters / 1e6:,.1f} M"),
            ("blocks", f"{shape.blocks} of width {shape.hidden}"),
            ("heads", f"{shape.heads}, keys {shape.kv_heads}"),
            ("now, in FP16", formatting.size(estimate.full_bytes)),
            ("then", f"<b>{formatting.size(estimate.quantized_bytes)}</b>"),
            ("memory to calibrate", f"about {formatting.size(estimate.peak_memory_bytes)}"),
        ]
    )
