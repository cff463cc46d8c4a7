"""Histograms of one tensor before and after quantization.

Counts are logarithmic, and all panels share one x-range.
"""

import math

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import HEIGHT, area_style, bar_style, empty_figure, sheet, style_axes
from app.figures.palette import LENSES, palette

UNITS = {"weight": "weight value", "activation": "activation value", "output": "block output value"}
MANY_LEVELS = 40
EMPTY_BIN = 0.5  # drawn below the log axis, so that outlines close at empty bins


def select(histograms: pd.DataFrame, block: int, tensor: str, kind: str) -> pd.DataFrame:
    """The rows of one histogram."""
    rows = histograms["block"].eq(block) & histograms["tensor"].eq(tensor) & histograms["kind"].eq(kind)
    return histograms[rows]


def weight_figure(
    histograms: pd.DataFrame, levels: pd.DataFrame, block: int, tensor: str, dark: bool = False, grid: str = "rounded"
) -> go.Figure:
    """Weights of a linear layer before and after rounding, above the use of its levels.

    grid: lens of the levels, "rounded" (plain) or "balanced" (with a star).
    """
    rows = select(histograms, block, tensor, "weight")
    if rows.empty:
        return empty_figure(f"No weights are stored for {tensor} in block {block}.", dark)
    marks = levels[levels["block"].eq(block) & levels["tensor"].eq(tensor) & levels["lens"].eq(grid)]
    panels = 2 if len(marks) else 1
    figure = make_subplots(
        rows=panels, cols=1, row_heights=[0.68, 0.32][:panels], vertical_spacing=0.17, figure=sheet(dark, HEIGHT + 60)
    )
    for lens in ("full", "rounded"):
        _add_outline(figure, rows, lens, dark, row=1)
    figure.update_yaxes(title_text="weights in bin (log)", type="log", dtick=1, row=1, col=1)
    figure.update_xaxes(title_text=UNITS["weight"], row=1, col=1)
    if panels == 2:
        _add_levels(figure, marks, grid, dark, row=2)
        figure.update_xaxes(title_text="integer level (step of the row's own scale; zero is 0)", row=2, col=1)
        _integer_ticks(figure, marks, row=2)
        figure.update_yaxes(title_text="% of weights", rangemode="tozero", row=2, col=1)
    figure.update_layout(uirevision=f"weights-{block}-{tensor}")
    return style_axes(figure, dark)


def level_figure(levels: pd.DataFrame, block: int, tensor: str, dark: bool = False) -> go.Figure:
    """Share of weights at each level: 2^p plain levels against 2^p + 1 with bit balance, or those of an import."""
    rows = levels[levels["block"].eq(block) & levels["tensor"].eq(tensor)]
    if rows.empty:
        return empty_figure("These weights are not on a grid of integer levels.", dark)
    figure = sheet(dark)
    for lens in ("rounded", "balanced", "corrected", "imported"):
        part = rows[rows["lens"].eq(lens)]
        if len(part):
            _add_levels(figure, part, lens, dark)
    scale = "group's" if rows["lens"].eq("imported").all() else "row's"
    figure.update_xaxes(title_text=f"level, in steps of the {scale} own scale (zero is 0)")
    _integer_ticks(figure, rows)
    figure.update_yaxes(title_text="% of weights", rangemode="tozero")
    figure.update_layout(barmode="group", uirevision=f"levels-{block}-{tensor}")
    return style_axes(figure, dark)


def paired_figure(histograms: pd.DataFrame, block: int, tensor: str, kind: str, dark: bool = False) -> go.Figure:
    """Full precision against rounded, and below it against corrected, on the same axes; or against imported."""
    rows = select(histograms, block, tensor, kind)
    if rows.empty:
        return empty_figure(f"No {kind} histogram is stored for {tensor} in block {block}.", dark)
    lenses = [lens for lens in ("rounded", "corrected", "imported") if rows["lens"].eq(lens).any()]
    figure = make_subplots(
        rows=max(len(lenses), 1),
        cols=1,
        shared_xaxes="all",
        shared_yaxes="all",
        vertical_spacing=0.11,
        subplot_titles=[f"Full and {LENSES[lens].word}" for lens in lenses] or None,
        figure=sheet(dark, HEIGHT + 80),
    )
    for row, lens in enumerate(lenses or ["full"], start=1):
        _add_outline(figure, rows, "full", dark, row=row, legend=row == 1)
        if lens != "full":
            _add_outline(figure, rows, lens, dark, row=row)
        figure.update_yaxes(title_text="values in bin (log)", type="log", dtick=1, row=row, col=1)
    figure.update_xaxes(title_text=UNITS[kind], showticklabels=True, row=max(len(lenses), 1), col=1)
    figure.update_layout(uirevision=f"{kind}-{block}-{tensor}", legend={"y": 1.06})
    return style_axes(figure, dark)


def _add_outline(figure: go.Figure, rows: pd.DataFrame, lens: str, dark: bool, row: int, legend: bool = True) -> None:
    part = rows[rows["lens"].eq(lens)]
    if part.empty:
        return
    centres = (part["left"] + part["right"]) / 2
    counts = part["count"].astype(float).clip(lower=EMPTY_BIN)
    figure.add_trace(
        go.Scatter(
            x=centres,
            y=counts,
            customdata=part[["left", "right", "count"]],
            hovertemplate=f"{LENSES[lens].word}<br>%{{customdata[0]:.4g}} to %{{customdata[1]:.4g}}<br>"
            "<b>%{customdata[2]:,}</b> values<extra></extra>",
            showlegend=legend,
            **area_style(lens, dark),
        ),
        row=row,
        col=1,
    )
    top = rows["count"].max()
    figure.update_yaxes(range=[-0.1, _log10(top) + 0.15], row=row, col=1)


def _add_levels(figure: go.Figure, rows: pd.DataFrame, lens: str, dark: bool, row: int | None = None) -> None:
    share = 100 * rows["count"] / rows["count"].sum()
    few = rows["level"].nunique() <= MANY_LEVELS
    style = bar_style(lens, dark, patterned=few)
    labels = [f"{value:.1f} %" if value >= 0.05 else "<0.1 %" for value in share] if few and len(rows) <= 20 else None
    trace = go.Bar(
        x=rows["level"],
        y=share,
        text=labels,
        textposition="outside",
        textfont={"size": 12, "color": palette(dark).muted},
        cliponaxis=False,
        customdata=rows["count"],
        hovertemplate=f"{LENSES[lens].word}, level %{{x}}<br><b>%{{y:.2f}} %</b> (%{{customdata:,}} weights)"
        "<extra></extra>",
        showlegend=row is None,
        **style,
    )
    figure.add_trace(trace, row=row, col=None if row is None else 1)


def _integer_ticks(figure: go.Figure, rows: pd.DataFrame, row: int | None = None) -> None:
    low, high = math.floor(rows["level"].min()), math.ceil(rows["level"].max())  # a level may be a half step
    step = max(1, (high - low) // 16)
    figure.update_xaxes(
        tickmode="linear", tick0=0, dtick=step, range=[low - 0.7, high + 0.7], row=row, col=None if row is None else 1
    )


def _log10(value: float) -> float:
    return math.log10(max(value, 1.0))
