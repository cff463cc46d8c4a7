"""Attention maps of one head: full precision, rounded and corrected or imported, and the difference."""

from collections.abc import Iterable
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import COLOUR_BAR, empty_figure, sheet, style_axes
from app.figures.palette import LENSES, difference_scale, palette, probability_scale

PANELS = ("full", "rounded", "corrected", "imported")


def attention_figure(
    attention: pd.DataFrame, tokens: pd.DataFrame, block: int, head: int, dark: bool = False, against: str = "corrected"
) -> go.Figure:
    """Attention probabilities on one colour scale, and the difference to full precision.

    Future positions are blank.
    attention: block, head, query, key, full, and rounded with corrected, or imported.  tokens: position, text.
    against: lens of the difference in the last panel; imported where the frame has no other.
    """
    rows = attention[attention["block"].eq(block) & attention["head"].eq(head)] if len(attention) else attention
    if rows.empty:
        return empty_figure(f"There is no attention map of head {head} in block {block}.", dark)
    size = int(rows["query"].max()) + 1
    panels = [lens for lens in PANELS if lens in rows]
    against = against if against in panels else panels[-1]
    maps = {lens: _square(rows, lens, size) for lens in panels}
    difference = maps[against] - maps["full"]
    limit = max(float(np.nanmax(np.abs(difference))), 1e-6)
    figure = make_subplots(
        rows=1,
        cols=len(panels) + 1,
        shared_yaxes=True,
        horizontal_spacing=0.018,
        subplot_titles=[*(LENSES[lens].word for lens in panels), f"{LENSES[against].word} - Full, ±{limit:.2g}"],
        figure=sheet(dark, height=340, legend=False),
    )
    where = _positions(_token_texts(tokens, size))
    for column, lens in enumerate(panels, start=1):
        figure.add_trace(
            go.Heatmap(
                z=maps[lens],
                coloraxis="coloraxis",
                customdata=where,
                hoverongaps=False,
                hovertemplate=f"{LENSES[lens].word}<br>%{{customdata[0]}} attends to %{{customdata[1]}}<br>"
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
            hovertemplate="Difference<br>%{customdata[0]} attends to %{customdata[1]}<br><b>%{z:+.4f}</b>"
            "<extra></extra>",
        ),
        row=1,
        col=len(panels) + 1,
    )
    figure.update_layout(
        coloraxis=_probability_axis(maps.values(), dark),
        uirevision=f"attention-{block}-{head}",
        margin={"l": 64, "r": 16, "t": 44, "b": 56},
    )
    return _square_axes(figure, size, len(panels) + 1, dark)


def _positions(texts: list[str]) -> np.ndarray:
    """(size, size, 2) labels of the query and the key of each cell, for hovering."""
    labels = [f"{text} ({position})" for position, text in enumerate(texts)]
    keys = np.array([labels] * len(labels), dtype=object)
    return np.dstack([keys.T, keys])


def _probability_axis(maps: Iterable[np.ndarray], dark: bool) -> dict[str, object]:
    return {
        "colorscale": probability_scale(dark),
        "cmin": 0,
        "cmax": max(float(np.nanmax(values)) for values in maps),
        "colorbar": {**COLOUR_BAR, "title": {"text": "probability", "side": "right", "font": {"size": 12}}},
    }


def _square_axes(figure: go.Figure, size: int, panels: int, dark: bool) -> go.Figure:
    """Square panels with query positions from top to bottom."""
    figure.update_xaxes(title_text="key position", showgrid=False, constrain="domain", range=[-0.5, size - 0.5])
    figure.update_yaxes(showgrid=False, range=[size - 0.5, -0.5], constrain="domain")
    for column in range(1, panels + 1):
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
