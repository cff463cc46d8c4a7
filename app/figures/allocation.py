"""Figures of an allocation: precision per linear layer; predicted against measured KL."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.base import COLOUR_BAR, empty_figure, sheet, style_axes
from app.figures.labels import place_labels
from app.figures.palette import lens_colour, middle_scale, palette
from app.figures.pareto import METHOD_MARKERS
from app.figures.run_lenses import lens_of
from app.figures.signal import LABELLED_CELLS

MARKER_SIZE = 11  # pixels, of a run in the prediction figure
PALE = 0.55  # share of the colour scale up to which dark text is easier to read


def allocation_figure(linears: pd.DataFrame, dark: bool = False) -> go.Figure:
    """The precision of every linear layer in every block; darker cells have more stored bits.

    If activation bits differ, darker cells have more bit operations. linears: as `Allocation.frame` returns them.
    """
    if linears.empty:
        return empty_figure("No mix of precisions yet.", dark)
    names = list(dict.fromkeys(linears["tensor"]))
    blocks = sorted(set(linears["block"]))
    weights, activations = linears["precision"].str.split("A").str[0], linears["precision"].str.extract(r"(A\d+)")[0]
    differ = activations.nunique() > 1
    shade, unit = ("bit_operations", "bit operations") if differ else ("stored_bits", "stored bits")
    short = weights + activations if differ else weights
    labels = linears.assign(label=linears["precision"].map(escape), short=short, shade=linears[shade])
    bits, label, kl = (
        labels.pivot(index="tensor", columns="block", values=column).reindex(index=names, columns=blocks)
        for column in ("shade", "label", "kl")
    )
    figure = sheet(dark, height=max(340, 130 + 44 * len(names)), legend=False)
    figure.add_trace(
        go.Heatmap(
            x=blocks,
            y=[escape(name) for name in names],
            z=bits.to_numpy(dtype=float),
            customdata=np.stack([label.fillna("").to_numpy(), kl.to_numpy()], axis=-1),
            colorscale=middle_scale(dark),
            xgap=2,
            ygap=2,
            colorbar={
                **COLOUR_BAR,
                "title": {"text": unit, "side": "right", "font": {"size": 12}},
                "dtick": None if differ else 1,
            },
            hovertemplate=f"block %{{x}}, %{{y}}<br><b>%{{customdata[0]}}</b>, %{{z}} {unit}<br>KL of this layer alone "
            "%{customdata[1]:.2g} nats<extra></extra>",
        )
    )
    if bits.size <= LABELLED_CELLS:
        figure.add_trace(_names_in_cells(labels, bits, dark))
    figure.update_xaxes(title_text="block", dtick=1 if len(blocks) <= 16 else 4, showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticklabelstandoff=6)
    figure.update_layout(uirevision="allocation")
    return style_axes(figure, dark)


def _names_in_cells(labels: pd.DataFrame, bits: pd.DataFrame, dark: bool) -> go.Scatter:
    """The short names of the precisions in a readable colour."""
    low, high = np.nanmin(bits.to_numpy(dtype=float)), np.nanmax(bits.to_numpy(dtype=float))
    place = (labels["shade"] - low) / max(high - low, 1)
    colours = palette(dark)
    return go.Scatter(
        x=labels["block"],
        y=labels["tensor"].map(escape),
        mode="text",
        text=labels["short"].map(escape),
        textfont={"size": 12, "color": [colours.background if at > PALE else colours.ink for at in place]},
        hoverinfo="skip",
    )


def prediction_figure(runs: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Predicted against measured KL divergence of stored runs.

    On the dotted line they are equal.
    runs: run, precision, method, predicted_kl, kl_mean.
    """
    rows = runs[(runs["predicted_kl"] > 0) & (runs["kl_mean"] > 0)] if len(runs) else runs
    if rows.empty:
        return empty_figure("No run of this model has both a prediction and an evaluation yet.", dark)
    figure = sheet(dark, height=420)
    values = rows[["predicted_kl", "kl_mean"]].to_numpy(dtype=float)
    ends = [float(values.min()) / 1.5, float(values.max()) * 1.5]
    points = pd.DataFrame(np.log10(values), columns=["x", "y"])
    points = points.assign(size=MARKER_SIZE, text=rows["precision"].astype(str).tolist())
    labels = place_labels(points, *[(np.log10(ends[0]), np.log10(ends[1]))] * 2)
    rows = rows.assign(label=[one.text for one in labels], place=[one.place for one in labels])
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="measured = predicted",
            line={"color": palette(dark).muted, "width": 1.2, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    for method, part in rows.groupby("method", sort=False):
        figure.add_trace(_predictions_of_method(str(method), part, dark))
    figure.update_xaxes(title_text="predicted KL to full precision in nats: sum over the linears", **_log(ends))
    figure.update_yaxes(title_text="measured KL in nats", **_log(ends))
    figure.update_layout(uirevision="predictions")
    return style_axes(figure, dark)


def _predictions_of_method(method: str, rows: pd.DataFrame, dark: bool) -> go.Scatter:
    mixed = rows["precision"].str.contains("mix", regex=False)
    return go.Scatter(
        x=rows["predicted_kl"],
        y=rows["kl_mean"],
        mode="markers+text",
        name=escape(method),
        text=[escape(label) for label in rows["label"]],
        textposition=rows["place"],
        textfont={"size": 12, "color": palette(dark).ink},
        customdata=rows[["precision", "run"]].astype(str).map(escape),
        marker={
            "opacity": 1,
            "symbol": METHOD_MARKERS.get(method, "hexagon"),
            "size": MARKER_SIZE,
            "color": lens_colour(lens_of(method), dark),
            "line": {"width": [2.5 if mix else 0 for mix in mixed], "color": palette(dark).ink},
        },
        hovertemplate=f"%{{customdata[0]}} {escape(method)} %{{customdata[1]}}<br>predicted %{{x:.3g}}, measured "
        "<b>%{y:.3g}</b> nats<extra></extra>",
    )


def _log(ends: list[float]) -> dict[str, object]:
    """A log axis over this range with ticks at 1, 2 and 5."""
    low, high = np.log10(ends)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
