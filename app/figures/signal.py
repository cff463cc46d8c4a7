"""Signal-to-noise ratio by block and linear layer, and outlier channels."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.base import COLOUR_BAR, empty_figure, sheet, style_axes
from app.figures.palette import lens_colour, middle_scale, palette

LABELLED_CELLS = 160


def signal_figure(
    linears: pd.DataFrame, dark: bool = False, lens: str = "rounded", column: str = "weight_snr_db"
) -> go.Figure:
    """Signal-to-noise ratio in dB of every linear layer in every block.

    Darker cells have less noise.
    """
    rows = linears[linears["lens"].eq(lens)] if len(linears) else linears
    if rows.empty or not np.isfinite(rows[column].to_numpy(dtype=float)).any():
        return empty_figure("No weights are quantized, so there is no rounding noise.", dark)
    names = list(dict.fromkeys(rows["tensor"]))
    table = rows.pivot(index="tensor", columns="block", values=column).reindex(names)
    values = table.to_numpy(dtype=float)
    values = np.where(np.isfinite(values), values, np.nan)
    figure = sheet(dark, height=max(360, 130 + 48 * len(names)), legend=False)
    figure.add_trace(
        go.Heatmap(
            x=table.columns,
            y=names,
            z=values,
            colorscale=middle_scale(dark),
            xgap=2,
            ygap=2,
            texttemplate="%{z:.1f}" if values.size <= LABELLED_CELLS else None,
            textfont={"size": 12},
            colorbar={**COLOUR_BAR, "title": {"text": "SNR in dB", "side": "right", "font": {"size": 12}}},
            hovertemplate="block %{x}, %{y}<br><b>%{z:.2f} dB</b><extra></extra>",
        )
    )
    figure.update_xaxes(title_text="block", dtick=1 if len(table.columns) <= 16 else 4, showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticklabelstandoff=6)
    figure.update_layout(uirevision=f"signal-{lens}-{column}")
    return style_axes(figure, dark)


def outlier_figure(
    outliers: pd.DataFrame, block: int, tensor: str, dark: bool = False, unit: str = "largest |weight|"
) -> go.Figure:
    """The 32 input channels with the largest peak, at their positions in the tensor."""
    rows = outliers[outliers["block"].eq(block) & outliers["tensor"].eq(tensor)] if len(outliers) else outliers
    if rows.empty:
        return empty_figure(f"No channels are stored for {tensor} in block {block}.", dark)
    rows = rows.sort_values("value", ascending=False)
    figure = sheet(dark, legend=False)
    colour = lens_colour("full", dark)
    stems_x, stems_y = [], []
    for channel, value in zip(rows["channel"], rows["value"], strict=True):
        stems_x += [channel, channel, None]
        stems_y += [0, value, None]
    figure.add_trace(
        go.Scatter(x=stems_x, y=stems_y, mode="lines", line={"color": colour, "width": 1.5}, hoverinfo="skip")
    )
    named = [f"{channel}" if rank < 5 else "" for rank, channel in enumerate(rows["channel"])]
    figure.add_trace(
        go.Scatter(
            x=rows["channel"],
            y=rows["value"],
            mode="markers+text",
            text=named,
            textposition="top center",
            textfont={"size": 12, "color": palette(dark).muted},
            marker={"color": colour, "size": 9},
            hovertemplate=f"input channel %{{x}}<br>{unit} <b>%{{y:.4g}}</b><extra></extra>",
        )
    )
    figure.update_xaxes(title_text="input channel (the 32 largest)", rangemode="tozero", showgrid=False)
    figure.update_yaxes(title_text=unit, rangemode="tozero")
    figure.update_layout(uirevision=f"outliers-{block}-{tensor}")
    return style_axes(figure, dark)
