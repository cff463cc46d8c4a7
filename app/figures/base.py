"""Shared parts of all figures: blank sheet, axes, lens styles, and the empty figure."""

from html import escape
from typing import Any

import plotly.graph_objects as go

from app.figures.palette import FONT_FAMILY, LENSES, lens_colour, palette, transparent

HEIGHT = 520
COLOUR_BAR = {"thickness": 12, "outlinewidth": 0, "tickfont": {"size": 12}}
TIMES = "\N{MULTIPLICATION SIGN}"


def sheet(dark: bool, height: int = HEIGHT, legend: bool = True) -> go.Figure:
    """A blank figure on the page's background.

    plotly keeps its zoom while `uirevision` stays the same.
    """
    colours = palette(dark)
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        paper_bgcolor=colours.background,
        plot_bgcolor=colours.background,
        font={"family": FONT_FAMILY, "size": 13, "color": colours.ink},
        margin={"l": 72, "r": 24, "t": 48, "b": 60},
        hoverlabel={
            "bgcolor": colours.background,
            "bordercolor": colours.muted,
            "font": {"color": colours.ink, "size": 13, "family": FONT_FAMILY},
            "align": "left",
        },
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left", "font": {"size": 13}},
        showlegend=legend,
        bargap=0.25,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": colours.muted, "activecolor": colours.ink},
    )
    return figure


def style_axes(figure: go.Figure, dark: bool) -> go.Figure:
    """Style the grid and ticks of every axis. Call it after all subplots are added."""
    colours = palette(dark)
    common: dict[str, Any] = {
        "gridcolor": colours.grid,
        "linecolor": colours.muted,
        "tickcolor": colours.muted,
        "tickfont": {"color": colours.muted, "size": 12},
        "title_font": {"color": colours.ink, "size": 13},
        "zeroline": False,
        "automargin": True,
    }
    figure.update_xaxes(showline=True, ticks="outside", ticklen=4, title_standoff=8, **common)
    figure.update_yaxes(showline=False, **common)
    figure.for_each_annotation(lambda note: note.update(font={"color": colours.ink, "size": 13}))
    return figure


def empty_figure(sentence: str, dark: bool, height: int = HEIGHT) -> go.Figure:
    """A figure with one sentence instead of data."""
    figure = sheet(dark, height, legend=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=escape(sentence),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 15, "color": palette(dark).muted},
    )
    return figure


def area_style(lens: str, dark: bool) -> dict[str, Any]:
    """A stepped outline for histograms.

    Full precision is a pale area, the other lenses are strong lines over it.
    """
    colour = lens_colour(lens, dark)
    style: dict[str, Any] = {
        "name": LENSES[lens].word,
        "mode": "lines",
        "legendgroup": lens,
        "line": {"color": colour, "width": 1.2 if lens == "full" else 1.8, "shape": "hvh"},
        "fill": "tozeroy",
        "fillcolor": transparent(colour, 0.28 if lens == "full" else 0.1),
    }
    return style


def line_style(lens: str, dark: bool) -> dict[str, Any]:
    """A line with the lens's dash and marker, for values per block."""
    colour = lens_colour(lens, dark)
    return {
        "name": LENSES[lens].word,
        "mode": "lines+markers",
        "legendgroup": lens,
        "line": {"color": colour, "width": 2, "dash": LENSES[lens].dash},
        "marker": {"symbol": LENSES[lens].marker, "size": 9, "color": colour},
    }


def bar_style(lens: str, dark: bool, patterned: bool = True) -> dict[str, Any]:
    """A bar with the lens's colour and pattern."""
    colour = lens_colour(lens, dark)
    marker: dict[str, Any] = {"color": colour, "line": {"color": colour, "width": 1}}
    if patterned and LENSES[lens].pattern:
        marker["pattern"] = pattern(LENSES[lens].pattern, dark)
    return {"name": LENSES[lens].word, "legendgroup": lens, "marker": marker}


def pattern(shape: str, dark: bool) -> dict[str, Any]:
    """A pattern in the background colour over a bar; "" for a plain bar."""
    background = palette(dark).background
    return {"shape": shape, "fillmode": "overlay", "fgcolor": background, "fgopacity": 0.55, "size": 9, "solidity": 0.2}


def block_axis(blocks: int, *, and_all: bool = False) -> dict[str, Any]:
    """The block number on x, as in every tab.

    and_all: add a place for the end-to-end pass after the last block.
    """
    ticks = range(0, blocks, 1 if blocks <= 16 else 4)
    return {
        "title_text": "block",
        "tickvals": [*ticks, *([blocks] if and_all else [])],
        "ticktext": [*map(str, ticks), *(["all"] if and_all else [])],
        "range": [-0.5, max(blocks, 1) + and_all - 0.5],
    }
