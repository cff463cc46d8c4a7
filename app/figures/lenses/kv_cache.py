"""KL against the size of the KV cache."""

import pandas as pd
import plotly.graph_objects as go

from app.figures.base import empty_figure, sheet, style_axes
from app.figures.palette import palette
from app.formatting import size

ALL = "all tokens"
STYLES = {"attention mass": ("solid", ""), "window and sinks": ("dot", "-open")}  # dash, suffix of the marker
MARKERS = ("triangle-up", "diamond", "circle", "square")  # by bits, fewest first


def kv_cache_figure(sizes: pd.DataFrame, dark: bool = False) -> go.Figure:
    """KL (log) over bytes of the cache (log): a line per bits of K and V and per choice of the tokens that stay.

    sizes: bits, kept, tokens, bytes, kl_mean, perplexity. Every line begins at the cache of all tokens.
    """
    if sizes.empty:
        return empty_figure("No size of the cache is measured yet.", dark)
    figure = sheet(dark, height=420)
    widths = sorted(sizes["bits"].unique())
    shades = palette(dark).sequential[-len(MARKERS) :]
    for bits, colour, marker in zip(widths, shades, MARKERS, strict=False):
        whole = sizes[sizes["bits"].eq(bits) & sizes["kept"].eq(ALL)]
        for kept, (dash, suffix) in STYLES.items():
            rows = pd.concat([whole, sizes[sizes["bits"].eq(bits) & sizes["kept"].eq(kept)]])
            rows = rows.sort_values("bytes", ascending=False)
            figure.add_trace(
                go.Scatter(
                    x=rows["bytes"] / 1024,
                    y=rows["kl_mean"].where(rows["kl_mean"] > 1e-6),
                    name=f"{bits} bits, {kept}",
                    mode="lines+markers",
                    line={"color": colour, "dash": dash, "width": 2},
                    marker={"color": colour, "symbol": marker + suffix, "size": 9},
                    customdata=list(zip(rows["tokens"], rows["bytes"].map(size), rows["perplexity"], strict=True)),
                    hovertemplate=f"{bits} bits, {kept}<br>%{{customdata[0]}} tokens, %{{customdata[1]}}<br>KL "
                    "<b>%{y:.4f} nats</b>, perplexity %{customdata[2]:.2f}<extra></extra>",
                )
            )
    figure.update_xaxes(title_text="KV cache in KiB (log)", type="log", dtick=0.30102999566)
    figure.update_yaxes(title_text="KL in nats (log)", type="log", exponentformat="power")
    figure.update_layout(uirevision="kv-cache", margin={"t": 64})
    return style_axes(figure, dark)
