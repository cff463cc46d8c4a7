"""KL of a run at every number of bit planes, beside rounding to nearest."""

import pandas as pd
import plotly.graph_objects as go

from app.figures.base import empty_figure, sheet, style_axes
from app.figures.palette import lens_colour, palette

LINES = {"kl_mean": ("this run, its highest planes", "corrected"), "rounded_kl_mean": ("rounded to nearest", "rounded")}


def plane_reads_figure(reads: pd.DataFrame, chosen: int, dark: bool = False) -> go.Figure:
    """KL (log) over planes, most first; a ring around the `chosen` number.

    reads: planes, kl_mean, rounded_kl_mean, perplexity, rounded_perplexity.
    """
    if reads.empty:
        return empty_figure("No number of planes is measured yet.", dark)
    ordered = reads.sort_values("planes", ascending=False)
    figure = sheet(dark, height=360)
    for name, (title, lens) in LINES.items():
        colour = lens_colour(lens, dark)
        figure.add_trace(
            go.Scatter(
                x=ordered["planes"],
                y=ordered[name].where(ordered[name] > 0),
                name=title,
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": "solid" if lens == "corrected" else "dot"},
                marker={"size": 9, "color": colour, "symbol": "circle" if lens == "corrected" else "square"},
                customdata=ordered["perplexity" if name == "kl_mean" else "rounded_perplexity"],
                hovertemplate=f"{title}<br>%{{x}} bits: KL <b>%{{y:.4f}} nats</b>, perplexity %{{customdata:.2f}}"
                "<extra></extra>",
            )
        )
    here = ordered[ordered["planes"].eq(chosen) & ordered["kl_mean"].gt(0)]
    ring = {"size": 20, "color": "rgba(0, 0, 0, 0)", "line": {"color": palette(dark).ink, "width": 2}}
    figure.add_trace(
        go.Scatter(x=here["planes"], y=here["kl_mean"], mode="markers", marker=ring, hoverinfo="skip", showlegend=False)
    )
    figure.update_xaxes(title_text="bit planes read", autorange="reversed", dtick=1)
    figure.update_yaxes(title_text="KL in nats (log)", type="log", exponentformat="power")
    figure.update_layout(uirevision="plane-reads", margin={"t": 36})
    return style_axes(figure, dark)
