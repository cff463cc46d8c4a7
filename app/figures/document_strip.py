"""KL divergence along a document as a strip of cells, one per token, in lines as on a page."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import COLOUR_BAR, empty_figure, sheet, style_axes
from app.figures.palette import palette

LINE = 128  # tokens in a line
LINE_HEIGHT, GAP = 15, 64  # pixels of a line, and between two columns
STRONGEST_NATS, STRONGEST_SHARE = 1.0, 0.98  # the strongest colour: this KL, or that of this quantile if it is larger
CONTEXT = 4  # tokens before a token, in its hover


def document_figure(
    rows: Mapping[str, pd.DataFrame], titles: Mapping[str, str], tokens: Sequence[str], dark: bool = False
) -> go.Figure:
    """One strip per column, with the same colours.

    rows: position and kl of each column, as from `document_kl`.  titles: of the columns.  tokens: the document's.
    """
    if not rows:
        return empty_figure("No column has read the document yet.", dark)
    lines = -(-len(tokens) // LINE)
    strip = max(2, lines) * LINE_HEIGHT
    heights = len(rows) * strip + (len(rows) - 1) * GAP
    figure = make_subplots(
        rows=len(rows),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=GAP / heights if len(rows) > 1 else 0,
        subplot_titles=[escape(f"{titles[name]}: mean {one['kl'].mean():.3f} nats") for name, one in rows.items()],
        figure=sheet(dark, height=heights + 150, legend=False),
    )
    hover = _hover(tokens, lines)
    for row, one in enumerate(rows.values(), start=1):
        cells = np.full(lines * LINE, np.nan, np.float32)
        cells[one["position"]] = one["kl"]
        figure.add_trace(
            go.Heatmap(
                z=cells.reshape(lines, LINE),
                y=np.arange(lines) * LINE,
                text=hover,
                coloraxis="coloraxis",
                xgap=1,
                ygap=2,
                hoverongaps=False,
                hovertemplate="%{text}<br>KL <b>%{z:.4f} nats</b><extra></extra>",
            ),
            row=row,
            col=1,
        )
        figure.update_yaxes(
            title_text="first token", autorange="reversed", showgrid=False, nticks=min(lines, 6), row=row, col=1
        )
    figure.update_xaxes(showgrid=False, dtick=16)
    figure.update_xaxes(title_text="token in the line", row=len(rows), col=1)
    figure.update_layout(uirevision="document", coloraxis=_colours(rows, dark), margin={"t": 40})
    return style_axes(figure, dark)


def _hover(tokens: Sequence[str], lines: int) -> np.ndarray:
    """The number of each token, and its text after that of the tokens before it: (lines, LINE)."""
    texts = np.full(lines * LINE, "", object)
    for at, token in enumerate(tokens):
        before = escape("".join(tokens[max(0, at - CONTEXT) : at]))
        texts[at] = f"token {at}: {before}<b>{escape(token)}</b>".replace(
            "\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
        )
    return texts.reshape(lines, LINE)


def _colours(rows: Mapping[str, pd.DataFrame], dark: bool) -> dict[str, object]:
    """From the background at 0 to red, with more contrast at the low end, where most tokens are."""
    colours, values = palette(dark), np.concatenate([one["kl"] for one in rows.values()])
    ends = [np.array([int(one[i : i + 2], 16) for i in (1, 3, 5)]) for one in (colours.grid, colours.more)]
    steps = np.linspace(0, 1, 6)
    mixed = [(1 - step) * ends[0] + step * ends[1] for step in steps]
    return {
        "cmin": 0,
        "cmax": max(STRONGEST_NATS, float(np.quantile(values, STRONGEST_SHARE))),
        "colorscale": [
            (float(step**2), "#" + "".join(f"{round(part):02x}" for part in colour))
            for step, colour in zip(steps, mixed, strict=True)
        ],
        "colorbar": {**COLOUR_BAR, "title": {"text": "KL in nats", "side": "right", "font": {"size": 12}}},
    }
