"""Inputs and weights of one linear before and after the Hadamard transform: channels, rows by block size, levels."""

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import empty_figure, pattern, sheet, style_axes
from app.figures.palette import lens_colour, palette, transparent

KINDS = {"activation": "Activations", "weight": "Weights"}  # by column of the figure
HEIGHTS = (250, 200, 200, 200)  # pixels of the rows
GAP = 78  # pixels between two rows
MEASURES = {2: ("kurtosis", "kurtosis (log)"), 3: ("range", "range (log)")}  # by row of the figure
NAMED = 3  # channels with the largest peaks
FAINT_LINES = 16  # rows of a weight that are drawn; tokens are no more
BEFORE, AFTER = "full", "corrected"  # the lenses whose colours the two have


def transform_figure(
    rows: pd.DataFrame, channels: pd.DataFrame, levels: pd.DataFrame, tokens: tuple[str, ...], dark: bool = False
) -> go.Figure:
    """Left activations, right weights. Peaks by channel, kurtosis and range by block size, and levels at 4 bits.

    rows, channels, levels: from `transform_frames`.  tokens: the text of each token.
    """
    after = int(channels["block"].max())
    if after == 1:
        return empty_figure("This linear has an odd number of channels, so no block of 2 or more fits.", dark)
    height = sum(HEIGHTS) + GAP * len(HEIGHTS) + 40
    figure = make_subplots(
        rows=4,
        cols=2,
        row_heights=list(HEIGHTS),
        horizontal_spacing=0.1,
        vertical_spacing=GAP / (sum(HEIGHTS) + GAP * 3),
        column_titles=list(KINDS.values()),
        figure=sheet(dark, height=height),
    )
    for column, kind in enumerate(KINDS, start=1):
        of_kind = (frame[frame["kind"].eq(kind)] for frame in (rows, channels, levels))
        per_row, per_channel, per_level = of_kind
        names = tuple(escape(f"token {at} ({text!r})") for at, text in enumerate(tokens)) if column == 1 else ()
        _add_channels(figure, per_channel, column, dark)
        for row, (measure, title) in MEASURES.items():
            _add_rows(figure, per_row, measure, names, (row, column), dark)
            figure.update_yaxes(title_text=title if column == 1 else None, type="log", row=row, col=column)
        _add_levels(figure, per_level, column, dark)
        _name_axes(figure, sorted(set(per_row["block"])), column)
    figure.update_layout(uirevision="transform", barmode="group", margin={"t": 64}, legend={"y": 1.03})
    style_axes(figure, dark)
    return figure


def _name_axes(figure: go.Figure, sizes: list[int], column: int) -> None:
    figure.update_xaxes(title_text="input channel", showgrid=False, row=1, col=column)
    ticks = {"tickvals": list(range(len(sizes))), "ticktext": ["before", *map(str, sizes[1:])]}
    for row in MEASURES:
        figure.update_xaxes(title_text="block size of the transform", showgrid=False, **ticks, row=row, col=column)
    figure.update_xaxes(
        title_text="level at 4 bits, in steps of the row's own scale (zero is 0)", showgrid=False, row=4, col=column
    )
    figure.update_yaxes(rangemode="tozero", row=4, col=column)
    if column == 1:
        figure.update_yaxes(title_text="largest |value|", row=1, col=1)
        figure.update_yaxes(title_text="% of values", row=4, col=1)


def _add_channels(figure: go.Figure, channels: pd.DataFrame, column: int, dark: bool) -> None:
    """The largest value of each channel; the channels with the largest before the transform are named."""
    room = 1.12  # for the names above the peaks
    figure.update_yaxes(range=[0, room * float(channels["value"].max())], row=1, col=column)
    for (size, part), lens in zip(channels.groupby("block"), (BEFORE, AFTER), strict=True):
        values = part["value"].to_numpy(np.float32)
        label = _label(int(size))
        trace: dict[str, Any] = {"mode": "lines", "line": {"color": lens_colour(lens, dark), "width": 1.2}}
        if lens == BEFORE:
            largest = np.argsort(values)[::-1][:NAMED]
            named = np.full(len(values), "", object)
            named[largest] = [str(at) for at in largest]
            trace |= {"mode": "lines+text", "text": named, "textposition": "top center"}
            trace |= {"textfont": {"size": 12, "color": palette(dark).muted}, "cliponaxis": False}
        figure.add_trace(
            go.Scatter(
                x=part["channel"].to_numpy(np.int32),
                y=values,
                name=label,
                legendgroup=label,
                showlegend=column == 1,
                hovertemplate=f"{label}<br>channel %{{x}}: largest |value| <b>%{{y:.4g}}</b><extra></extra>",
                **trace,
            ),
            row=1,
            col=column,
        )


def _add_rows(
    figure: go.Figure, rows: pd.DataFrame, measure: str, names: tuple[str, ...], at: tuple[int, int], dark: bool
) -> None:
    """A faint line per token or output, and the median of all. names: of the tokens; empty for outputs."""
    table = rows.pivot(index="row", columns="block", values=measure)
    places = list(range(len(table.columns)))
    drawn = table.iloc[np.unique(np.linspace(0, len(table) - 1, FAINT_LINES).round().astype(int))]
    faint = {"color": transparent(palette(dark).muted, 0.35), "width": 1}
    for row, values in drawn.iterrows():
        trace = go.Scatter(
            x=places,
            y=values.to_numpy(np.float32),
            mode="lines",
            line=faint,
            name=names[int(row)] if names else f"output {row}",
            showlegend=False,
            hovertemplate=f"%{{fullData.name}}<br>{measure} <b>%{{y:.4g}}</b><extra></extra>",
        )
        figure.add_trace(trace, row=at[0], col=at[1])
    median = table.median().to_numpy(np.float32)
    colours = [lens_colour(BEFORE, dark), *[lens_colour(AFTER, dark)] * (len(places) - 1)]
    figure.add_trace(
        go.Scatter(
            x=places,
            y=median,
            mode="lines+markers+text",
            text=[f"{value:.3g}" for value in median],
            textposition="top center",
            textfont={"size": 12, "color": palette(dark).ink},
            cliponaxis=False,
            line={"color": palette(dark).muted, "width": 2},
            marker={"color": colours, "size": 9, "symbol": ["circle", *["diamond"] * (len(places) - 1)]},
            showlegend=False,
            hovertemplate=f"median of {len(table)}<br>{measure} <b>%{{y:.4g}}</b><extra></extra>",
        ),
        row=at[0],
        col=at[1],
    )


def _add_levels(figure: go.Figure, levels: pd.DataFrame, column: int, dark: bool) -> None:
    for (size, part), lens in zip(levels.groupby("block"), (BEFORE, AFTER), strict=True):
        label = _label(int(size))
        figure.add_trace(
            go.Bar(
                x=part["level"].to_numpy(np.int32),
                y=100 * part["share"].to_numpy(),
                name=label,
                legendgroup=label,
                showlegend=False,
                marker={"color": lens_colour(lens, dark), "pattern": pattern("" if lens == AFTER else "/", dark)},
                hovertemplate=f"{label}<br>level %{{x}}: <b>%{{y:.2f}} %</b> of the values<extra></extra>",
            ),
            row=4,
            col=column,
        )


def _label(size: int) -> str:
    return "before the transform" if size == 1 else f"after, blocks of {size} channels"
