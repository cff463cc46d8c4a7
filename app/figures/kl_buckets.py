"""KL divergence from full precision by full precision's confidence."""

import pandas as pd
import plotly.graph_objects as go

from app import formatting
from app.figures.base import bar_style, empty_figure, sheet, style_axes
from app.figures.palette import palette

HEIGHT = 300
RIGHT_OF_FLOOR = 66  # pixels, for the label beside the bars


def kl_buckets_figure(
    buckets: pd.DataFrame, floor: float | None = None, dark: bool = False, lens: str = "corrected"
) -> go.Figure:
    """Mean KL of the tokens of each bucket, with their share, and the noise floor as a dotted line.

    buckets: low, high, share, kl_mean.  floor: in nats.
    """
    rows = buckets.dropna(subset=["kl_mean"]) if len(buckets) else buckets
    if rows.empty:
        return empty_figure("This evaluation has no KL by confidence: evaluate the run again.", dark, HEIGHT)
    figure = sheet(dark, HEIGHT, legend=False)
    shares = [f"{formatting.percent(share)} of tokens" for share in rows["share"]]
    figure.add_trace(
        go.Bar(
            x=[formatting.bucket(low, high) for low, high in zip(rows["low"], rows["high"], strict=True)],
            y=rows["kl_mean"],
            text=shares,
            textposition="outside",
            cliponaxis=False,
            hovertemplate="confidence %{x}<br><b>%{y:.4f} nats</b>, %{text}<extra></extra>",
            **bar_style(lens, dark),
        )
    )
    if floor is not None:
        figure.add_hline(
            y=floor,
            line={"dash": "dot", "width": 1.2, "color": palette(dark).muted},
            annotation={"text": "floor:<br>bfloat16", "xanchor": "left", "yanchor": "middle", "align": "left", "x": 1},
        )
        figure.update_layout(margin_r=RIGHT_OF_FLOOR)
    figure.update_xaxes(title_text="highest probability of full precision", showgrid=False)
    figure.update_yaxes(title_text="mean KL in nats", rangemode="tozero")
    figure.update_layout(uirevision="kl-buckets")
    return style_axes(figure, dark)
