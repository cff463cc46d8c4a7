"""KL by calibration text and evaluation text."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.figures.base import COLOUR_BAR, empty_figure, sheet, style_axes
from app.figures.palette import middle_scale, palette


def text_matrix_figure(cells: pd.DataFrame, dark: bool = False) -> go.Figure:
    """One cell per pair of texts, with its KL; the best calibration text of each column has an outline.

    The colour compares the rows of a column: KL over the lowest of the column.
    cells: calibrated_on, evaluated_on, run, kl_mean, perplexity.
    """
    measured = cells.dropna(subset=["kl_mean"])
    if measured.empty:
        return empty_figure("No pair of texts is measured yet.", dark)
    texts = list(dict.fromkeys(cells["calibrated_on"]))
    kl, perplexity = (
        cells.pivot(index="calibrated_on", columns="evaluated_on", values=name).reindex(index=texts, columns=texts)
        for name in ("kl_mean", "perplexity")
    )
    best = kl.min(axis=0)
    names = [escape(text) for text in texts]
    figure = sheet(dark, height=max(340, 150 + 56 * len(texts)), legend=False)
    figure.add_trace(
        go.Heatmap(
            x=names,
            y=names,
            z=(kl / best).to_numpy(),
            customdata=np.stack([kl.to_numpy(), perplexity.to_numpy()], axis=-1),
            text=kl.map(lambda value: "" if pd.isna(value) else f"{value:.3f}").to_numpy(),
            texttemplate="%{text}",
            colorscale=middle_scale(dark),
            xgap=2,
            ygap=2,
            hoverongaps=False,
            colorbar={**COLOUR_BAR, "title": {"text": "KL over the best of the column", "side": "right"}},
            hovertemplate="calibrated on %{y}, evaluated on %{x}<br>KL <b>%{customdata[0]:.4f} nats</b>, perplexity "
            "%{customdata[1]:.2f}<extra></extra>",
        )
    )
    for column, text in enumerate(texts):
        if not np.isnan(best[text]):
            row = texts.index(str(kl[text].idxmin()))
            figure.add_shape(
                type="rect",
                x0=column - 0.49,
                x1=column + 0.49,
                y0=row - 0.49,
                y1=row + 0.49,
                line={"color": palette(dark).ink, "width": 2.5},
            )
    figure.update_xaxes(title_text="evaluated on", showgrid=False)
    figure.update_yaxes(title_text="calibrated on", autorange="reversed", showgrid=False, ticklabelstandoff=6)
    figure.update_layout(uirevision="text-matrix")
    return style_axes(figure, dark)
