"""Which run to take: size against perplexity, with the front that no other run beats."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.base import empty_figure, sheet, style_axes
from app.figures.palette import lens_colour, palette

METHOD_MARKERS = {
    "none": "circle",
    "rtn": "square",
    "smoothquant": "triangle-up",
    "omniquant": "pentagon",
    "abq": "diamond",
}
LABELS = {"abq": "bottom right", "smoothquant": "top left", "omniquant": "bottom left"}  # apart where sizes are equal
SMALLEST, LARGEST = 11.0, 30.0  # marker sizes in pixels
WIDE = 8


def lens_of(method: str) -> str:
    """A run's lens: full precision, rounded, or corrected by a calibration."""
    return {"none": "full", "rtn": "rounded"}.get(method, "corrected")


def front(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both size and perplexity, by size."""
    ordered = runs.sort_values(["weight_bytes", "perplexity"])
    best = ordered["perplexity"].cummin()
    return ordered[ordered["perplexity"].eq(best) & ~best.duplicated()]


def pareto_figure(runs: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Left is smaller, lower is better; a larger marker decodes faster where its speed was measured."""
    rows = runs.dropna(subset=["perplexity", "weight_bytes"]) if len(runs) else runs
    if rows.empty:
        return empty_figure("No run has been evaluated yet.", dark)
    figure = sheet(dark, height=460)
    best = front(rows)
    figure.add_trace(
        go.Scatter(
            x=best["weight_bytes"] / 2**20,
            y=best["perplexity"],
            mode="lines",
            name="front: nothing is both smaller and better",
            line={"color": palette(dark).muted, "width": 1.2, "dash": "dot", "shape": "hv"},
            hoverinfo="skip",
        )
    )
    speeds = rows["tokens_per_second"] if "tokens_per_second" in rows else pd.Series(np.nan, index=rows.index)
    fastest = speeds.max()
    sizes = (SMALLEST + (LARGEST - SMALLEST) * speeds / fastest).fillna(SMALLEST)
    for method, part in rows.groupby("method", sort=False):
        colour = lens_colour(lens_of(str(method)), dark)
        starred = part["precision"].str.contains("*", regex=False)
        figure.add_trace(
            go.Scatter(
                x=part["weight_bytes"] / 2**20,
                y=part["perplexity"],
                error_y={"array": part["perplexity_stderr"], "thickness": 1, "color": colour},
                mode="markers+text",
                name="full precision" if method == "none" else escape(str(method)),
                text=[escape(str(precision)) for precision in part["precision"]],
                textposition=LABELS.get(str(method), "top right"),
                textfont={"size": 12, "color": palette(dark).ink},
                marker={
                    "opacity": 1,
                    "symbol": METHOD_MARKERS.get(str(method), "hexagon"),
                    "size": sizes[part.index],
                    "color": colour,
                    "line": {
                        "width": [2.5 if star else 0 for star in starred],
                        "color": lens_colour("balanced", dark),
                    },
                },
                customdata=np.stack(
                    [
                        [escape(str(run)) for run in part["run"]],
                        part["perplexity_stderr"],
                        100 * part["same_top"],
                        speeds[part.index],
                    ],
                    axis=-1,
                ),
                hovertemplate=f"%{{text}} {escape(str(method))} %{{customdata[0]}}<br>perplexity <b>%{{y:.2f}}</b> ± "
                "%{customdata[1]:.2f}<br>%{x:.2f} MiB, same top token %{customdata[2]:.1f} %<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="size of the weights in MiB", **_scale(rows["weight_bytes"] / 2**20))
    figure.update_yaxes(title_text="perplexity", **_scale(rows["perplexity"]))
    figure.update_layout(uirevision="pareto")
    return style_axes(figure, dark)


def _scale(values: pd.Series) -> dict[str, object]:
    """A log axis, with ticks that suit it, where the values span more than a factor of WIDE."""
    if values.max() < WIDE * values.min():
        return {}
    decades = range(int(np.floor(np.log10(values.min()))), int(np.ceil(np.log10(values.max()))) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
