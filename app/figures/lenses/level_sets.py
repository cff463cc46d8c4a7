"""Error against stored bits of every format of one linear, and how often one of them uses its levels."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import empty_figure, pattern, sheet, style_axes
from app.figures.palette import lens_colour, palette, transparent

MARKERS = {
    "uniform": "square",
    "half-step": "diamond",
    "star": "star",
    "FP4": "triangle-up",
    "NF4": "circle",
    "BitMoD": "hexagon",
    "own": "x",
}  # by family
SCALES = {"largest": "scale of the largest weight", "least error": "scale with the least error"}


def level_sets_figure(formats: pd.DataFrame, occupancy: pd.DataFrame, chosen: str, dark: bool = False) -> go.Figure:
    """Above: SNR against bits per weight. Below: the levels of the format `chosen`.

    Formats of the engine are filled and coloured, others are outlines. formats, occupancy: from `level_set_frames`.
    """
    levels = occupancy[occupancy["format"].eq(chosen)]
    if formats.empty or levels.empty:
        return empty_figure(f"There is no format {chosen}.", dark)
    figure = make_subplots(
        rows=2,
        cols=1,
        row_heights=[0.66, 0.34],
        vertical_spacing=0.15,
        subplot_titles=["", f"levels of {escape(chosen)}"],
        figure=sheet(dark, height=680),
    )
    for family, rows in formats.groupby("family", sort=False):
        _add_family(figure, str(family), rows, dark)
    _add_occupancy(figure, levels, _colour(formats[formats["format"].eq(chosen)], dark), dark)
    figure.update_xaxes(title_text="stored bits per weight, with scales and zero points", row=1, col=1)
    figure.update_yaxes(title_text="SNR in dB", row=1, col=1)
    figure.update_xaxes(title_text="level, in steps of the group's scale", showgrid=False, row=2, col=1)
    figure.update_yaxes(title_text="% of weights", rangemode="tozero", row=2, col=1)
    figure.update_layout(uirevision="level-sets", barmode="group", margin={"t": 56})
    return style_axes(figure, dark)


def _add_family(figure: go.Figure, family: str, rows: pd.DataFrame, dark: bool) -> None:
    """The formats of a family: a large marker for the least error, a small one for the scale of the largest weight."""
    fast, colour = bool(rows["fast"].iloc[0]), _colour(rows, dark)
    suffix = "" if fast else " (simulated only)"
    for scale, rows_of_scale in rows.groupby("scale", sort=False):
        best = scale == "least error"
        ordered = rows_of_scale.sort_values("bits")
        figure.add_trace(
            go.Scatter(
                x=ordered["bits"],
                y=ordered["snr_db"].where(np.isfinite(ordered["snr_db"])),
                mode="lines+markers",
                name=f"{family}{suffix}",
                legendgroup=family,
                showlegend=best,
                customdata=ordered[["format", "levels"]].map(lambda value: escape(str(value))),
                line={"color": transparent(colour, 0.5), "width": 1, "dash": "solid" if best else "dot"},
                marker={
                    "symbol": MARKERS[family] + ("" if fast else "-open"),
                    "size": 12 if best else 6,
                    "color": colour,
                    "line": {"width": 2 if best and not fast else 1},
                    "opacity": 1,
                },
                hovertemplate=f"%{{customdata[0]}}, {SCALES[str(scale)]}{suffix}<br>%{{customdata[1]}} levels, "
                "%{x:.2f} bits<br>SNR <b>%{y:.2f} dB</b><extra></extra>",
            ),
            row=1,
            col=1,
        )


def _colour(formats: pd.DataFrame, dark: bool) -> str:
    """The colour of formats of one family."""
    if not formats["fast"].iloc[0]:
        return palette(dark).muted
    return lens_colour("balanced" if formats["family"].iloc[0] == "star" else "rounded", dark)


def _add_occupancy(figure: go.Figure, levels: pd.DataFrame, colour: str, dark: bool) -> None:
    for scale, rows in levels.groupby("scale", sort=False):
        best = scale == "least error"
        share = 100 * rows["count"] / rows["count"].sum()
        marker = {"color": colour if best else transparent(colour, 0.45)}
        if not best:
            marker["pattern"] = pattern("/", dark)
        figure.add_trace(
            go.Bar(
                x=rows["level"],
                y=share,
                name=SCALES[str(scale)],
                legendgroup="scales",
                showlegend=False,
                customdata=rows["count"],
                marker=marker,
                hovertemplate=f"{SCALES[str(scale)]}<br>level %{{x:.4g}}: <b>%{{y:.2f}} %</b> "
                "(%{customdata:,} weights)<extra></extra>",
            ),
            row=2,
            col=1,
        )
