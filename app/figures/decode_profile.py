"""Where a decode step's time goes, and how fast it could be if memory were the only limit."""

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from app import formatting
from app.figures.base import sheet, style_axes
from app.figures.palette import lens_colour, palette


def decode_profile_figure(profile: Mapping[str, Any], dark: bool = False) -> go.Figure:
    """One bar per kind of operation, in milliseconds, and a mark where reading its bytes alone would end."""
    parts = list(reversed(profile["parts"]))
    kinds = [escape(part["kind"]) for part in parts]
    times = [part["seconds"] * 1e3 for part in parts]
    share = [formatting.percent(part["seconds"] / profile["seconds"]) for part in parts]
    figure = sheet(dark, height=max(320, 150 + 44 * len(parts)))
    figure.add_trace(
        go.Bar(
            y=kinds,
            x=times,
            orientation="h",
            name="measured",
            marker={"color": lens_colour("rounded", dark)},
            text=[f"{time:.2f} ms, {part}" for time, part in zip(times, share, strict=True)],
            textposition="outside",
            textfont={"color": palette(dark).ink},
            cliponaxis=False,
            hovertemplate="%{y}<br><b>%{x:.3f} ms</b><extra></extra>",
        )
    )
    read = [part for part in parts if part["nbytes"]]
    limits = [part["nbytes"] / (profile["read_gb_per_second"] * 1e6) for part in read]
    figure.add_trace(
        go.Scatter(
            y=[escape(part["kind"]) for part in read],
            x=limits,
            mode="markers",
            name=f"reading its bytes at {profile['read_gb_per_second']:.1f} GB/s",
            marker={"symbol": "line-ns", "size": 30, "line": {"width": 3, "color": palette(dark).ink}},
            customdata=[formatting.size(part["nbytes"]) for part in read],
            hovertemplate="%{y}: %{customdata}<br><b>%{x:.3f} ms</b> at the memory bandwidth<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="milliseconds per token", range=[0, max([*times, *limits]) * 1.3])
    figure.update_yaxes(showgrid=False, type="category")
    figure.update_layout(uirevision="profile", margin={"t": 56})
    return style_axes(figure, dark)
