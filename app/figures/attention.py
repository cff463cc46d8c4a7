"""Attention maps of one head in two rows: full precision, rounded and corrected or imported, and the difference."""

from collections.abc import Iterable
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import COLOUR_BAR, empty_figure, sheet, style_axes
from app.figures.palette import LENSES, difference_scale, palette, probability_scale

PANELS = ("full", "rounded", "corrected", "imported")
SIDE = 410  # pixels of a panel in a figure of 900 pixels
GROWS = 1.0  # pixels of height per pixel of width, for square panels in two rows


def attention_figure(
    attention: pd.DataFrame,
    tokens: pd.DataFrame,
    heads: pd.DataFrame,
    place: tuple[int, int],
    dark: bool = False,
    against: str = "corrected",
) -> go.Figure:
    """Attention probabilities on one colour scale, and the difference to full precision.

    Future positions are blank; a dotted frame marks the attention sink.
    attention: block, head, query, key, full, and rounded with corrected, or imported.  tokens: position, text.
    heads: from `attention_heads`.  place: block and head.  against: lens of the difference in the last panel; imported
    where the frame has no other.
    """
    block, head = place
    rows = attention[attention["block"].eq(block) & attention["head"].eq(head)] if len(attention) else attention
    if rows.empty:
        return empty_figure(f"There is no attention map of head {head} in block {block}.", dark)
    size = int(rows["query"].max()) + 1
    panels = [lens for lens in PANELS if lens in rows]
    against = against if against in panels else panels[-1]
    maps = {lens: square(rows, lens, size) for lens in panels}
    difference = maps[against] - maps["full"]
    limit = max(float(np.nanmax(np.abs(difference))), 1e-6)
    numbers = heads[heads["block"].eq(block) & heads["head"].eq(head)].iloc[0]
    titles = [*(_title(lens, numbers) for lens in panels), f"{LENSES[against].word} - Full, ±{limit:.2g}"]
    figure = make_subplots(
        rows=2,
        cols=2,
        horizontal_spacing=0.02,
        vertical_spacing=0.035,
        subplot_titles=titles,
        figure=sheet(dark, height=2 * SIDE + 184, legend=False),
    )
    where = _positions(_token_texts(tokens, size))
    for index, lens in enumerate(panels):
        figure.add_trace(
            go.Heatmap(
                z=maps[lens].astype(np.float32),
                coloraxis="coloraxis",
                customdata=where,
                hoverongaps=False,
                hovertemplate=f"{LENSES[lens].word}<br>%{{customdata[0]}} attends to %{{customdata[1]}}<br>"
                "probability <b>%{z:.4f}</b><extra></extra>",
            ),
            row=index // 2 + 1,
            col=index % 2 + 1,
        )
    figure.add_trace(
        go.Heatmap(
            z=difference.astype(np.float32),
            zmin=-limit,
            zmax=limit,
            colorscale=difference_scale(dark),
            showscale=False,
            customdata=where,
            hoverongaps=False,
            hovertemplate="Difference<br>%{customdata[0]} attends to %{customdata[1]}<br><b>%{z:+.4f}</b>"
            "<extra></extra>",
        ),
        row=2,
        col=len(panels) - 1,
    )
    figure.update_layout(
        coloraxis=_probability_axis(maps.values(), dark),
        uirevision=f"attention-{block}-{head}",
        margin={"l": 46, "r": 6, "t": 34, "b": 100},
    )
    _square_axes(figure, size, len(panels) + 1, dark)
    _mark_sink(figure, int(numbers["sink"]), size, dark)
    return figure


def _title(lens: str, numbers: pd.Series) -> str:
    divergence = "" if lens == "full" else f", KL {numbers[f'kl_{lens}']:.2g}"
    return (
        f"{LENSES[lens].word}{divergence}, entropy {numbers[f'entropy_{lens}']:.2f} nats, "
        f"sink {100 * numbers[f'sink_{lens}']:.0f} %"
    )


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
        "colorbar": {
            **COLOUR_BAR,
            "orientation": "h",
            "y": -0.055,
            "yanchor": "top",
            "len": 0.5,
            "x": 0,
            "xanchor": "left",
            "title": {"text": "probability", "side": "bottom", "font": {"size": 12}},
        },
    }


def _square_axes(figure: go.Figure, size: int, panels: int, dark: bool) -> None:
    """Square panels with query positions from top to bottom."""
    style_axes(figure, dark)
    frame = {"mirror": True, "linecolor": palette(dark).grid, "showgrid": False, "constrain": "domain"}
    figure.update_xaxes(**frame, range=[-0.5, size - 0.5])
    figure.update_yaxes(**frame, showline=True, range=[size - 0.5, -0.5], scaleratio=1)
    for row in (1, 2):
        for column in (1, 2)[: panels - 2 * (row - 1)]:
            anchor = figure.get_subplot(row, column).xaxis.plotly_name.replace("axis", "")
            figure.update_yaxes(scaleanchor=anchor, showticklabels=column == 1, row=row, col=column)
            figure.update_xaxes(showticklabels=row == 2, row=row, col=column)
        figure.update_yaxes(title_text="query position", row=row, col=1)
    figure.update_xaxes(title_text="key position", row=2)
    if panels == 3:
        figure.update_xaxes(visible=False, row=2, col=2)
        figure.update_yaxes(visible=False, row=2, col=2)


def _mark_sink(figure: go.Figure, sink: int, size: int, dark: bool) -> None:
    """A dotted frame around the visible part of the sink's column in every panel."""
    line = {"color": palette(dark).more, "width": 1.2, "dash": "dot"}
    for trace in figure.select_traces():
        corners = {"x0": sink - 0.5, "x1": sink + 0.5, "y0": sink - 0.5, "y1": size - 0.5}
        figure.add_shape(type="rect", **corners, line=line, xref=trace.xaxis, yref=trace.yaxis)


def square(rows: pd.DataFrame, lens: str, size: int) -> np.ndarray:
    """The map of one head: (size, size), NaN where a query cannot see a key."""
    values = np.full((size, size), np.nan)
    values[rows["query"].to_numpy(), rows["key"].to_numpy()] = rows[lens].to_numpy()
    return values


def _token_texts(tokens: pd.DataFrame, size: int) -> list[str]:
    known = dict(zip(tokens["position"], tokens["text"], strict=True)) if len(tokens) else {}
    return [escape(repr(str(known.get(position, "")))[:40]) for position in range(size)]
