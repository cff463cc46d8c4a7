"""Attention maps of one head: full, rounded, corrected, and the difference that is left, side by side."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import COLOUR_BAR, empty_figure, sheet, style_axes
from app.figures.palette import LENSES, difference_scale, palette, probability_scale

PANELS = ("full", "rounded", "corrected")


def attention_figure(
    attention: pd.DataFrame, tokens: pd.DataFrame, block: int, head: int, dark: bool = False, against: str = "corrected"
) -> go.Figure:
    """Probabilities on one colour scale; future positions stay blank. `against` minus full is the fourth panel."""
    rows = attention[attention["block"].eq(block) & attention["head"].eq(head)] if len(attention) else attention
    if rows.empty:
        return empty_figure(f"There is no attention map of head {head} in block {block}.", dark)
    size = int(rows["query"].max()) + 1
    maps = {lens: _square(rows, lens, size) for lens in PANELS}
    difference = maps[against] - maps["full"]
    limit = max(float(np.nanmax(np.abs(difference))), 1e-6)
    texts = _token_texts(tokens, size)
    figure = make_subplots(
        rows=1,
        cols=4,
        shared_yaxes=True,
        horizontal_spacing=0.018,
        subplot_titles=[*(LENSES[lens].word for lens in PANELS), f"{LENSES[against].word} - Full, ±{limit:.2g}"],
        figure=sheet(dark, height=340, legend=False),
    )
    places = np.array([[f"{texts[key]} ({key})" for key in range(size)]] * size, dtype=object)
    queries = np.array([[f"{texts[query]} ({query})"] * size for query in range(size)], dtype=object)
    where = np.dstack([queries, places])
    for column, lens in enumerate(PANELS, start=1):
        figure.add_trace(
            go.Heatmap(
                z=maps[lens],
                coloraxis="coloraxis",
                customdata=where,
                hoverongaps=False,
                hovertemplate=f"{LENSES[lens].word}<br>%{{customdata[0]}} looks at %{{customdata[1]}}<br>"
                "probability <b>%{z:.4f}</b><extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.add_trace(
        go.Heatmap(
            z=difference,
            zmin=-limit,
            zmax=limit,
            colorscale=difference_scale(dark),
            showscale=False,
            customdata=where,
            hoverongaps=False,
            hovertemplate="Difference<br>%{customdata[0]} looks at %{customdata[1]}<br><b>%{z:+.4f}</b><extra></extra>",
        ),
        row=1,
        col=4,
    )
    top = max(float(np.nanmax(m)) for m in maps.values())
    figure.update_layout(
        coloraxis={
            "colorscale": probability_scale(dark),
            "cmin": 0,
            "cmax": top,
            "colorbar": {**COLOUR_BAR, "title": {"text": "probability", "side": "right", "font": {"size": 12}}},
        },
        uirevision=f"attention-{block}-{head}",
        margin={"l": 64, "r": 16, "t": 44, "b": 56},
    )
    figure.update_xaxes(title_text="key position", showgrid=False, constrain="domain", range=[-0.5, size - 0.5])
    figure.update_yaxes(showgrid=False, range=[size - 0.5, -0.5], constrain="domain")
    for column in range(1, 5):
        x = "x" if column == 1 else f"x{column}"
        figure.update_yaxes(scaleanchor=x, scaleratio=1, row=1, col=column)
    figure.update_yaxes(title_text="query position", row=1, col=1)
    style_axes(figure, dark)
    figure.update_xaxes(mirror=True, linecolor=palette(dark).grid)
    figure.update_yaxes(showline=True, mirror=True, linecolor=palette(dark).grid)
    return figure


def _square(rows: pd.DataFrame, lens: str, size: int) -> np.ndarray:
    square = np.full((size, size), np.nan)
    square[rows["query"].to_numpy(), rows["key"].to_numpy()] = rows[lens].to_numpy()
    return square


def _token_texts(tokens: pd.DataFrame, size: int) -> list[str]:
    known = dict(zip(tokens["position"], tokens["text"], strict=True)) if len(tokens) else {}
    return [escape(repr(str(known.get(position, "")))[:40]) for position in range(size)]
