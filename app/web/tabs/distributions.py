"""The Distributions tab: one run before and after calibration, block by block.

Shows the effect of DLC, AKL, bit balance and the Hadamard transform.
"""

from collections.abc import Callable
from typing import NamedTuple

import gradio as gr
import pandas as pd
import plotly.graph_objects as go

from abq_core.analysis.attention_heads import attention_heads, compared_lens
from abq_core.spec import CalibrationSpec
from app.figures.attention import GROWS as ATTENTION_GROWS
from app.figures.attention import attention_figure
from app.figures.attention_heads import heads_figure
from app.figures.blocks import balance_figure, blocks_figure, clipping_figure
from app.figures.histograms import level_figure, paired_figure
from app.figures.run_lenses import under_its_lens
from app.figures.signal import signal_figure
from app.web import html
from app.web.access.login import account_of
from app.web.access.private_texts import check_text_access
from app.web.page.callbacks import FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection


class View(NamedTuple):
    """The part of a run that the form selects.

    A block, a tensor or balance pair in it, an attention head, a lens.
    """

    block: int
    tensor: str
    head: int
    against: str
    dark: bool
    tokens: pd.DataFrame | None = None  # of the attention maps
    heads: pd.DataFrame | None = None  # their numbers, from `attention_heads`


class Picture(NamedTuple):
    """One figure of the tab. frame: the diagnostics it needs.

    choices: the form's widgets that select within it.
    """

    frame: str
    draw: Callable[[pd.DataFrame, View], go.Figure]
    caption: str
    choices: tuple[str, ...] = ("block", "tensor")


def _paired(kind: str) -> Callable[[pd.DataFrame, View], go.Figure]:
    return lambda frame, view: paired_figure(frame, view.block, view.tensor, kind, view.dark)


PICTURES = {
    "Per block": Picture(
        "blocks",
        lambda frame, view: blocks_figure(frame, view.dark),
        "Look at the gap between the dashed and the solid line: calibration recovers that much. Errors grow with "
        "depth, because each block receives the errors of the blocks before it.",
        (),
    ),
    "Weights": Picture(
        "histograms",
        _paired("weight"),
        "Look at the tails: calibration may clip them and move range between weights and activations, so corrected "
        "weights have their own scale. abq+ also mixes channels before rounding.",
    ),
    "Activations": Picture(
        "histograms",
        _paired("activation"),
        "Look at the width: balance vectors scale outlier channels down and abq+ mixes channels, so corrected inputs "
        "have a narrower range.",
    ),
    "Block outputs": Picture(
        "histograms",
        lambda frame, view: paired_figure(frame, view.block, "block", "output", view.dark),
        "Look at how well the outline follows the grey area; DLC and MSE pull it there.",
        ("block",),
    ),
    "Attention maps": Picture(
        "attention",
        lambda frame, view: attention_figure(
            frame, view.tokens, view.heads, (view.block, view.head), view.dark, view.against
        ),
        "Look at the first column and the diagonal: AKL preserves both. In the difference, teal is less attention than "
        "in full precision and red is more. The dotted frame is the attention sink, the key that later tokens attend "
        "to most. The colour scale is steep near zero.",
        ("block", "head"),
    ),
    "Levels": Picture(
        "levels",
        lambda frame, view: level_figure(frame, view.block, view.tensor, view.dark),
        "Look at which levels are in use: clipping narrows the range, so weights reach the outer levels. Bars between "
        "whole numbers belong to rows with half-step zero points.",
    ),
    "Signal to noise": Picture(
        "linears",
        lambda frame, view: signal_figure(frame, view.dark, lens=_final_lens(frame)),
        "Look for the lightest cells: rounding still loses most there. 6 dB more halves the error.",
        (),
    ),
    "Balance": Picture(
        "balance",
        lambda frame, view: balance_figure(frame, view.block, view.tensor, view.dark),
        "Look at the channels far from 1: above 1, a channel's activations shrink and its weights grow.",
    ),
    "Clipping": Picture(
        "clipping",
        lambda frame, view: clipping_figure(frame, view.block, view.tensor, view.dark),
        "Look at the mass below 1: those rows trade their extremes for a finer step.",
    ),
}


def _final_lens(frame: pd.DataFrame) -> str:
    """The lens of a run's own weights: imported, corrected or rounded."""
    return next(lens for lens in ("imported", "corrected", "rounded") if frame["lens"].eq(lens).any())


OF_IMPORTS = {
    "Per block": "Look at where the line falls: errors grow with depth, because each block receives those before it.",
    "Weights": "Look at the tails, and at gaps between the levels of coarse groups.",
    "Activations": "Look at the width: the inputs of the imported model drift away from those of the base model.",
    "Block outputs": "Look at how well the outline follows the grey area.",
    "Attention maps": "In the difference, teal is less attention than in full precision and red is more.",
    "Levels": "Look at which codes of the file are in use, in steps of each group's own scale.",
    "Signal to noise": "Look for the lightest cells: the file loses most there. 6 dB more halves the error.",
}  # captions for runs that were imported
OF_ROUNDED = {
    "Per block": "Look at where the line falls: errors grow with depth, because each block receives those before it.",
    "Weights": "Look at the spacing of the peaks: every weight moves to the nearest level of its row.",
    "Activations": "Look at the width: a few outlier channels stretch the range that all values of a token share.",
    "Block outputs": "Look at how well the outline follows the grey area. Calibration with abq pulls it there.",
    "Attention maps": "In the difference, teal is less attention than in full precision and red is more. The dotted "
    "frame is the attention sink, the key that later tokens attend to most. The colour scale is steep near zero.",
    "Levels": "Look at which levels are in use: one large weight stretches the range of its row.",
    "Signal to noise": "Look for the lightest cells: rounding loses most there. 6 dB more halves the error.",
}  # captions for runs that only round
CAPTIONS = {"imported": OF_IMPORTS, "rounded": OF_ROUNDED}  # by lens; else those of PICTURES
ATTENTION, BALANCE = "Attention maps", "Balance"
HEADS_CAPTION = (
    "Look at the first maps: these heads differ most from full precision (KL, mean over the queries). A triangle marks "
    "the attention sink. Entropy says how spread out a head's attention is: 0 nats is a single key. Click a map to "
    "enlarge it."
)


def build_distributions_tab(page: Page) -> None:
    """Choice of figure on the left, the figure on the right.

    Without a run, a button that calibrates one.
    """
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            picture = gr.Radio(list(PICTURES), value="Per block", label="Figure", elem_id="distributions-picture")
            block = gr.Slider(0, 1, value=0, step=1, label="Block", elem_id="distributions-block")
            tensor = gr.Dropdown([], label="Linear layer", elem_id="distributions-tensor")
            head = gr.Dropdown([], label="Head, largest KL first", visible=False, elem_id="distributions-head")
            against = gr.Radio(
                [("Corrected", "corrected"), ("Rounded", "rounded")], value="corrected", label="Difference of",
                visible=False, elem_id="distributions-against",
            )  # fmt: skip
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="distributions-answer", js_on_load=None)
            with gr.Column(visible=False) as nothing:
                empty = gr.HTML("", js_on_load=None)
                make = gr.Button(
                    "Calibrate with abq", variant="primary", elem_id="distributions-make", elem_classes="abq-maker"
                )
            all_heads = build_picture("distributions-heads")
            figure = build_picture("distributions-figure")

    @callback(answer, tab="distributions")
    def show(
        selection: Selection,
        name: str,
        at: float,
        linear: str | None,
        at_head: str | None,
        lens: str,
        request: gr.Request,
    ) -> Updates:
        if not selection.run:
            said = html.answer(html.BLANK, "distributions")
            return {answer: said, figure: "", all_heads: "", nothing: gr.update(visible=True), empty: _empty(selection)}
        chosen = PICTURES[name]
        run = page.services.runs.get(selection.run)
        check_text_access(run, request)
        frame, blocks = (
            under_its_lens(page.services.runs.diagnostics(run.id, part), run.method)
            for part in (chosen.frame, "blocks")
        )
        last = int(blocks["block"].max())
        names = _names(frame, name)
        linear = linear if linear in names else (names[0] if names else None)
        view = View(_within(at, last), str(linear), 0, lens, selection.dark)
        heads, overview = [], ""
        if name == ATTENTION:
            view, heads = _of_heads(page, selection.run, frame, view, at_head)
            overview = _overview(selection.run, frame, view)
        return {
            answer: html.answer(_answer(page, selection, blocks), "distributions"),
            figure: _framed(selection.run, name, chosen.draw(frame, view), _final_lens(blocks)),
            all_heads: overview,
            nothing: gr.update(visible=False),
            block: gr.update(maximum=max(last, 1), value=view.block, visible="block" in chosen.choices),
            tensor: gr.update(
                choices=names, value=linear, visible="tensor" in chosen.choices,
                label="Pair" if name == BALANCE else "Linear layer",
            ),
            head: gr.update(choices=heads, value=str(view.head) if heads else None, visible=name == ATTENTION),
            against: gr.update(visible=name == ATTENTION and "corrected" in frame),
        }  # fmt: skip

    @callback(answer)
    def start(selection: Selection, request: gr.Request) -> Updates:
        precision, device = page.services.models.precision(selection.precision), page.services.settings.device
        spec = CalibrationSpec(selection.model, precision, device=device)
        page.services.jobs.submit(spec, account_of(request), page.limits.max_queued)
        return {page.tabs: gr.Tabs(selected="calibrate")}

    inputs = [page.selection, picture, block, tensor, head, against]
    outputs = [answer, figure, all_heads, nothing, empty, block, tensor, head, against]
    page.turn("distributions")(show, inputs, outputs, **{**FOLLOW, "show_progress": "minimal"}, show_progress_on=figure)
    edited = [widget.input for widget in inputs[1:]]
    gr.on(edited, show, inputs, outputs, **FOLLOW)
    all_heads.select(_clicked, None, head, **PRIVATE).then(show, inputs, outputs, **PRIVATE)
    make.click(start, page.selection, [answer, page.tabs], **PRIVATE)


def _framed(run: str, name: str, figure: go.Figure, lens: str) -> str:
    """lens: of the run."""
    picture = PICTURES[name]
    caption = CAPTIONS[lens].get(name, "") if lens in CAPTIONS else picture.caption
    csv = f"abq/run/{run}/{picture.frame}.csv"
    grows = ATTENTION_GROWS if name == ATTENTION else 0.0
    return framed(figure, caption, csv, f"{picture.frame}-{run}", grows)


def _of_heads(
    page: Page, run: str, frame: pd.DataFrame, view: View, at_head: str | None
) -> tuple[View, list[tuple[str, str]]]:
    """The view with the heads' numbers and the chosen head, and the choices: all heads of the block."""
    tokens = page.services.runs.diagnostics(run, "attention_tokens")
    heads = attention_heads(frame[frame["block"].eq(view.block)])
    if heads.empty:
        return view._replace(tokens=tokens, heads=heads), []
    kl = f"kl_{compared_lens(frame, view.against)}"
    ordered = heads.sort_values(kl, ascending=False)
    choices = [
        (f"head {head}, KL {value:.2g} nats", str(head))
        for head, value in zip(ordered["head"], ordered[kl], strict=True)
    ]
    head = at_head if at_head in {value for _, value in choices} else choices[0][1]
    return view._replace(head=int(head), tokens=tokens, heads=heads), choices


def _overview(run: str, frame: pd.DataFrame, view: View) -> str:
    """All heads of the block."""
    figure = heads_figure(frame, view.heads, view.block, view.head, view.dark, view.against)
    return framed(
        figure, HEADS_CAPTION, f"abq/run/{run}/attention_heads.csv?block={view.block}", f"heads-{run}-{view.block}"
    )


def _clicked(event: gr.SelectData) -> str:
    return str(event.value)


def _within(value: float | None, last: int) -> int:
    return min(max(int(value or 0), 0), last)


def _names(frame: pd.DataFrame, name: str) -> list[str]:
    """The linear layers, or balance pairs, that this figure can show."""
    if "tensor" not in PICTURES[name].choices:
        return []
    column = "pair" if name == BALANCE else "tensor"
    return [str(value) for value in dict.fromkeys(frame[column]) if value != "block"]


def _empty(selection: Selection) -> str:
    return html.empty(
        f"No run of {selection.model} at {selection.precision} yet",
        "This tab shows weights, activations, block outputs and attention maps before and after calibration, block by "
        "block. Select a run above, or calibrate one now.",
    )


def _answer(page: Page, selection: Selection, blocks: pd.DataFrame) -> str:
    runs = page.services.runs.newest_frame()
    run = runs[runs["run"].eq(selection.run)].iloc[0]
    cosine = blocks[blocks["block"].eq(blocks["block"].max())].set_index("lens")["cosine"]
    return html.render("distributions_answer.html", run=run, cosine=cosine)
