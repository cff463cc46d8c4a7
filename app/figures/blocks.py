"""Distances to full precision per block, learned balance vectors and clipping factors."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import block_axis, empty_figure, line_style, sheet, style_axes
from app.figures.palette import LENSES, lens_colour, palette, transparent

MEASURES = {
    "cosine": "cosine to full precision",
    "kl_attention": "KL of attention maps in nats (log)",
    "snr_db": "SNR of block output in dB",
}
FACTOR_BINS = 64


def blocks_figure(blocks: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Cosine, attention KL and SNR of the block outputs against full precision, block by block."""
    if blocks.empty:
        return empty_figure("This run has no distances per block yet.", dark)
    count = int(blocks["block"].max()) + 1
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06, figure=sheet(dark, height=680))
    for row, (measure, title) in enumerate(MEASURES.items(), start=1):
        for lens in ("rounded", "corrected", "imported"):
            part = blocks[blocks["lens"].eq(lens)].sort_values("block")
            if part.empty:
                continue
            values = part[measure].where(np.isfinite(part[measure]))
            figure.add_trace(
                go.Scatter(
                    x=part["block"],
                    y=values,
                    showlegend=row == 1,
                    hovertemplate=f"{LENSES[lens].word}, block %{{x}}<br>{title} <b>%{{y:.4g}}</b><extra></extra>",
                    **line_style(lens, dark),
                ),
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=title.replace(" in ", "<br>in ").replace(" to ", "<br>to "), row=row, col=1)
    figure.update_yaxes(type="log", exponentformat="power", row=2, col=1)
    figure.update_xaxes(**{**block_axis(count), "title_text": None})
    figure.update_xaxes(title_text="block", row=3, col=1)
    figure.update_layout(uirevision="blocks", hovermode="x")
    return style_axes(figure, dark)


def balance_figure(balance: pd.DataFrame, block: int, pair: str, dark: bool = False) -> go.Figure:
    """The learned balance value of each channel (log); 1 leaves the channel unchanged."""
    rows = balance[balance["block"].eq(block) & balance["pair"].eq(pair)] if len(balance) else balance
    if rows.empty:
        return empty_figure("This run learned no balance vectors: they are off in its method or its switches.", dark)
    figure = sheet(dark, legend=False)
    figure.add_hline(y=1, line={"color": palette(dark).muted, "width": 1, "dash": "dot"})
    figure.add_trace(
        go.Scatter(
            x=rows["channel"],
            y=rows["value"],
            mode="markers",
            marker={"color": lens_colour("corrected", dark), "size": 5, "symbol": LENSES["corrected"].marker},
            hovertemplate="channel %{x}<br>s = <b>%{y:.4g}</b><extra></extra>",
        )
    )
    figure.update_xaxes(title_text="channel", showgrid=False)
    figure.update_yaxes(title_text="balance value s: activations are divided by it (log)", type="log", nticks=8)
    figure.update_layout(uirevision=f"balance-{block}-{pair}")
    return style_axes(figure, dark)


def clipping_figure(clipping: pd.DataFrame, block: int, tensor: str, dark: bool = False) -> go.Figure:
    """Histogram of the share of each row's range that learned clipping keeps; 1 keeps all of it."""
    rows = clipping[clipping["block"].eq(block) & clipping["tensor"].eq(tensor)] if len(clipping) else clipping
    if rows.empty:
        return empty_figure("This run learned no clipping: it is off in its method or its switches.", dark)
    figure = make_subplots(rows=2, cols=1, shared_xaxes="all", vertical_spacing=0.1, figure=sheet(dark, legend=False),
                           subplot_titles=["lower end of the range", "upper end of the range"])  # fmt: skip
    colour = lens_colour("corrected", dark)
    edges = np.linspace(min(0.5, float(rows[["low", "high"]].min().min())), 1.0, FACTOR_BINS + 1)
    for row, side in enumerate(("low", "high"), start=1):
        counts, _ = np.histogram(np.clip(rows[side], edges[0], edges[-1]), bins=edges)
        figure.add_trace(
            go.Bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=counts,
                width=np.diff(edges),
                marker={"color": transparent(colour, 0.8), "line": {"color": colour, "width": 1}},
                hovertemplate="factor about %{x:.3f}<br><b>%{y}</b> rows<extra></extra>",
            ),
            row=row,
            col=1,
        )
        figure.update_yaxes(title_text="rows", row=row, col=1)
    figure.update_xaxes(title_text="clipping factor (1 keeps the whole range)", row=2, col=1)
    figure.update_layout(uirevision=f"clipping-{block}-{tensor}", bargap=0)
    return style_axes(figure, dark)
