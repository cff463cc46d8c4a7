"""Size against perplexity of all runs, with the Pareto front."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from abq_core.imports.spec import METHOD as IMPORTED
from app.figures.base import empty_figure, sheet, style_axes
from app.figures.labels import axis_range, place_labels
from app.figures.palette import lens_colour, palette
from app.figures.run_lenses import lens_of

METHOD_MARKERS = {
    "none": "circle",
    "rtn": "square",
    "smoothquant": "triangle-up",
    "omniquant": "pentagon",
    "abq": "diamond",
    IMPORTED: "cross",
}
SMALLEST, LARGEST = 11.0, 30.0  # marker sizes in pixels
WIDE = 8  # a ratio from which on an axis is logarithmic


def size_column(runs: pd.DataFrame) -> str:
    """The column with the sizes of these runs: of the whole model, or of its linear layers if a run lacks the former.

    Evaluations of earlier versions have only the latter.
    """
    return "model_bytes" if "model_bytes" in runs and runs["model_bytes"].notna().all() else "weight_bytes"


def front(runs: pd.DataFrame) -> pd.DataFrame:
    """The Pareto front: the rows that no other row beats in both size and perplexity, by size."""
    ordered = runs.sort_values([size_column(runs), "perplexity"])
    best = ordered["perplexity"].cummin()
    return ordered[ordered["perplexity"].eq(best) & ~best.duplicated()]


def pareto_figure(runs: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Size against perplexity: left is smaller, lower is better, a larger marker decodes faster.

    runs: precision, method, run, weight_bytes, model_bytes, perplexity, perplexity_stderr, same_top, and
    tokens_per_second if it was measured.
    """
    rows = runs.dropna(subset=["perplexity", "weight_bytes"]) if len(runs) else runs
    if rows.empty:
        return empty_figure("No run has been evaluated yet.", dark)
    speeds = rows["tokens_per_second"] if "tokens_per_second" in rows else pd.Series(np.nan, index=rows.index)
    sizes = (SMALLEST + (LARGEST - SMALLEST) * speeds / speeds.max()).fillna(SMALLEST)
    rows = rows.assign(marker_size=sizes)
    figure = sheet(dark, height=460)
    best, column = front(rows), size_column(rows)
    rows["mib"] = rows[column] / 2**20
    rows, x_axis, y_axis = _with_labels(rows)
    figure.add_trace(
        go.Scatter(
            x=best[column] / 2**20,
            y=best["perplexity"],
            mode="lines",
            name="Pareto front",
            line={"color": palette(dark).muted, "width": 1.2, "dash": "dot", "shape": "hv"},
            hoverinfo="skip",
        )
    )
    for method, part in rows.groupby("method", sort=False):
        figure.add_trace(_runs_of_method(str(method), part, dark))
    sized = "the model" if column == "model_bytes" else "the linear layers"
    figure.update_xaxes(title_text=f"size of {sized} in MiB", **x_axis)
    figure.update_yaxes(title_text="perplexity", **y_axis)
    figure.update_layout(uirevision="pareto")
    return style_axes(figure, dark)


def _runs_of_method(method: str, rows: pd.DataFrame, dark: bool) -> go.Scatter:
    colour = lens_colour(lens_of(method), dark)
    starred = rows["precision"].str.contains("*", regex=False)
    runs, precisions = ([escape(str(value)) for value in rows[column]] for column in ("run", "precision"))
    return go.Scatter(
        x=rows["mib"],
        y=rows["perplexity"],
        error_y={"array": rows["perplexity_stderr"], "thickness": 1, "color": colour},
        mode="markers+text",
        name="full precision" if method == "none" else escape(method),
        text=[escape(label) for label in rows["label"]],
        textposition=rows["place"],
        textfont={"size": 12, "color": palette(dark).ink},
        marker={
            "opacity": 1,
            "symbol": METHOD_MARKERS.get(method, "hexagon"),
            "size": rows["marker_size"],
            "color": colour,
            "line": {"width": [2.5 if star else 0 for star in starred], "color": lens_colour("balanced", dark)},
        },
        customdata=np.stack([runs, rows["perplexity_stderr"], 100 * rows["same_top"], precisions], axis=-1),
        hovertemplate=f"%{{customdata[3]}} {escape(method)} %{{customdata[0]}}<br>perplexity <b>%{{y:.2f}}</b> ± "
        "%{customdata[1]:.2f}<br>%{x:.2f} MiB, same top token %{customdata[2]:.1f} %<extra></extra>",
    )


def _with_labels(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, object], dict[str, object]]:
    """The rows with columns label and place, and the settings of both axes."""
    error = rows["perplexity_stderr"].fillna(0)
    least = (rows["perplexity"] - error).where(rows["perplexity"] > error, rows["perplexity"])
    x_axis, y_axis = _scale(rows["mib"]), _scale(rows["perplexity"])
    x, y, low, high = (
        np.log10(values) if axis else values
        for values, axis in (
            (rows["mib"], x_axis),
            (rows["perplexity"], y_axis),
            (least, y_axis),
            (rows["perplexity"] + error, y_axis),
        )
    )
    x_range, y_range = axis_range(x, x), axis_range(low, high)
    points = pd.DataFrame({"x": x, "y": y, "size": rows["marker_size"], "text": rows["precision"].astype(str)})
    labels = place_labels(points, x_range, y_range)
    rows = rows.assign(label=[one.text for one in labels], place=[one.place for one in labels])
    return rows, {"range": x_range, **x_axis}, {"range": y_range, **y_axis}


def _scale(values: pd.Series) -> dict[str, object]:
    """A log axis with ticks at 1, 2 and 5 if the values span a factor of WIDE or more."""
    if values.max() < WIDE * values.min():
        return {}
    decades = range(int(np.floor(np.log10(values.min()))), int(np.ceil(np.log10(values.max()))) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
