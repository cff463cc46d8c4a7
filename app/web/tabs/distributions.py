"""Distributions: what did DLC, AKL and bit balance do? Before and after of one run, block by block."""

import gradio as gr
import pandas as pd

from abq_core.spec import CalibrationSpec
from app import formatting
from app.figures.attention import attention_figure
from app.figures.blocks import balance_figure, blocks_figure, clipping_figure
from app.figures.histograms import level_figure, paired_figure
from app.figures.signal import signal_figure
from app.web.tabs import words
from app.web.tabs.guard import guarded
from app.web.tabs.jobs_panel import PRIVATE
from app.web.tabs.page import Page
from app.web.tabs.picture import build_picture, framed
from app.web.tabs.selection import Selection

FRAMES = {
    "Per block": "blocks",
    "Weights": "histograms",
    "Activations": "histograms",
    "Block outputs": "histograms",
    "Attention maps": "attention",
    "Levels": "levels",
    "Signal to noise": "linears",
    "Balance": "balance",
    "Clipping": "clipping",
}
CAPTIONS = {
    "Per block": "Look at the gap between the dashed and the solid line: that is what calibration won back. "
    "Errors grow with depth, since each block sees what the blocks before it left over.",
    "Weights": "Look at the tails: calibration may clip them and move range between weights and activations, "
    "so corrected weights stand in their own scale. abq+ mixes channels before it rounds.",
    "Activations": "Look at the width: balance vectors divide the channels that stand out, and abq+ mixes channels, so "
    "that corrected inputs are narrower.",
    "Block outputs": "Look at how well the outline follows the grey area; DLC and MSE pull it there.",
    "Attention maps": "Look at the first column and the diagonal: AKL asks the corrected map to keep both. "
    "In the difference, teal is less attention than full precision and red is more; colours rise fast near zero.",
    "Levels": "Look at which levels are in use: clipping narrows the range, so that weights reach the outer levels. "
    "Bars between whole numbers are of rows with half-step zero points.",
    "Signal to noise": "Look for the lightest cells: there rounding still loses most. 6 dB more is half the error.",
    "Balance": "Look at the channels far from 1: above it a channel's activations shrink and its weights grow.",
    "Clipping": "Look at the mass below 1: those rows gave up their extremes for a finer step.",
}
NO_TENSOR = {"Per block", "Block outputs", "Attention maps", "Signal to noise"}
NO_BLOCK = {"Per block", "Signal to noise"}


def build_distributions_tab(page: Page) -> None:
    """Which picture of the run on the left, the picture on the right; without a run, the click that makes one."""
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            picture = gr.Radio(list(FRAMES), value="Per block", label="Picture", elem_id="distributions-picture")
            block = gr.Slider(0, 1, value=0, step=1, label="Block", elem_id="distributions-block")
            tensor = gr.Dropdown([], label="Linear", elem_id="distributions-tensor")
            head = gr.Slider(0, 1, value=0, step=1, label="Head", visible=False, elem_id="distributions-head")
            against = gr.Radio(
                [("Corrected", "corrected"), ("Rounded", "rounded")], value="corrected", label="Difference of",
                visible=False, elem_id="distributions-against",
            )  # fmt: skip
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(words.answer("&nbsp;"), elem_id="distributions-answer", js_on_load=None)
            with gr.Column(visible=False) as nothing:
                empty = gr.HTML("", js_on_load=None)
                make = gr.Button(
                    "Calibrate it with abq", variant="primary", elem_id="distributions-make", elem_classes="abq-maker"
                )
            figure = build_picture("distributions-figure")
    outputs = [answer, figure, nothing, empty, block, tensor, head, against]

    @guarded(len(outputs))
    def show(text: str, picture: str, block: float, tensor: str | None, head: float, against: str) -> list[object]:
        selection = Selection.from_json(text)
        if selection.tab != "distributions":
            return [gr.skip()] * len(outputs)
        if not selection.run:
            return [words.answer("&nbsp;"), "", gr.update(visible=True), _empty(selection), *[gr.skip()] * 4]
        frame = page.services.runs.diagnostics(selection.run, FRAMES[picture])
        blocks = page.services.runs.diagnostics(selection.run, "blocks")
        last = int(blocks["block"].max())
        place = min(max(int(block or 0), 0), last)
        names = _names(frame, picture)
        tensor = tensor if tensor in names else (names[0] if names else None)
        heads = int(frame["head"].max()) if picture == "Attention maps" else 0
        head = min(max(int(head or 0), 0), heads)
        drawn = _figure(page, selection, picture, frame, place, tensor, head, against)
        return [
            words.answer(_answer(page, selection, blocks)),
            framed(
                drawn,
                CAPTIONS[picture],
                f"abq/run/{selection.run}/{FRAMES[picture]}.csv",
                f"{FRAMES[picture]}-{selection.run}",
                grows=0.25 if picture == "Attention maps" else 0.0,
            ),
            gr.update(visible=False),
            gr.skip(),
            gr.update(maximum=max(last, 1), value=place, visible=picture not in NO_BLOCK),
            gr.update(
                choices=names,
                value=tensor,
                visible=picture not in NO_TENSOR,
                label="Pair" if picture == "Balance" else "Linear",
            ),
            gr.update(maximum=max(heads, 1), value=head, visible=picture == "Attention maps"),
            gr.update(visible=picture == "Attention maps"),
        ]

    @guarded(2)
    def start(text: str) -> list[object]:
        selection = Selection.from_json(text)
        spec = CalibrationSpec(
            selection.model, page.services.models.precision(selection.precision), device=page.services.settings.device
        )
        page.limits.check_queue()
        page.services.jobs.submit(spec)
        return [gr.skip(), gr.Tabs(selected="calibrate")]

    inputs = [page.selection, picture, block, tensor, head, against]
    page.selection.change(
        show, inputs, outputs, api_visibility="private", show_progress="minimal", show_progress_on=figure
    )
    gr.on(
        [picture.input, block.input, tensor.input, head.input, against.input],
        show,
        inputs,
        outputs,
        trigger_mode="always_last",
        **PRIVATE,
    )
    make.click(start, page.selection, [answer, page.tabs], **PRIVATE)


def _figure(
    page: Page,
    selection: Selection,
    picture: str,
    frame: pd.DataFrame,
    block: int,
    tensor: str,
    head: int,
    against: str,
) -> object:
    dark = selection.dark
    match picture:
        case "Per block":
            return blocks_figure(frame, dark)
        case "Weights":
            return paired_figure(frame, block, str(tensor), "weight", dark)
        case "Activations":
            return paired_figure(frame, block, str(tensor), "activation", dark)
        case "Block outputs":
            return paired_figure(frame, block, "block", "output", dark)
        case "Attention maps":
            tokens = page.services.runs.diagnostics(selection.run, "attention_tokens")
            return attention_figure(frame, tokens, block, head, dark, against)
        case "Levels":
            return level_figure(frame, block, str(tensor), dark)
        case "Signal to noise":
            return signal_figure(frame, dark, lens="corrected")
        case "Balance":
            return balance_figure(frame, block, str(tensor), dark)
        case _:
            return clipping_figure(frame, block, str(tensor), dark)


def _names(frame: pd.DataFrame, picture: str) -> list[str]:
    """What can be chosen beside the block: linears, or balance pairs."""
    if picture in NO_TENSOR:
        return []
    column = "pair" if picture == "Balance" else "tensor"
    return [str(name) for name in dict.fromkeys(frame[column]) if name != "block"]


def _empty(selection: Selection) -> str:
    precision, model = words.escape(selection.precision), words.escape(selection.model)
    return words.empty(
        f"No calibrated run of {model} at {precision} yet",
        "Here weights, activations, block outputs and attention maps will stand before and after calibration, block by "
        "block. Choose a run above, or make one now.",
    )


def _answer(page: Page, selection: Selection, blocks: pd.DataFrame) -> str:
    runs = page.services.runs.newest_frame()
    run = runs[runs["run"].eq(selection.run)].iloc[0]
    last = blocks[blocks["block"].eq(blocks["block"].max())].set_index("lens")["cosine"]
    return (
        f"<b>{words.escape(selection.precision)}</b> {words.escape(str(run['method']))} keeps "
        f"<b>{formatting.percent(run['same_top'])}</b> of the {words.term('same top token', 'top tokens')} at "
        f"{words.term('perplexity')} {formatting.perplexity(run['perplexity'], run['perplexity_stderr'])}. "
        f"After the last block the outputs' cosine to full precision is {last['corrected']:.4f} "
        f'<span class="abq-corrected">corrected</span>, '
        f'{last["rounded"]:.4f} <span class="abq-rounded">only rounded</span>.'
    )
