"""A tile of a weight as bit planes, put together plane by plane, and the common bits of one dot product."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.figures.base import sheet, style_axes
from app.figures.palette import lens_colour, middle_scale, palette, sequential_scale

if TYPE_CHECKING:
    import pandas as pd

    from abq_core.analysis.bit_planes import BitPlanes

WIDTH = 840  # pixels that the pictures of one row share at a page width of 1280
LARGEST = 250  # pixels of one picture
LOWER = 230  # pixels of the lowest row
TITLES = 40  # pixels between two rows


def bit_planes_figure(lens: "BitPlanes", dark: bool = False, grid: str = "rounded") -> go.Figure:
    """Above: the codes and their planes. Middle: the weights after each plane. Below: SNR, and counts of common bits.

    grid: lens of the levels, "rounded" (plain) or "balanced" (with a star).
    """
    columns = lens.planes + 1
    side = min(LARGEST, WIDTH // columns)
    left = max(1, columns // 2)
    figure = make_subplots(
        rows=3,
        cols=columns,
        specs=[[{}] * columns, [{}] * columns, _halves(left, columns - left)],
        row_heights=[side, side, LOWER],
        horizontal_spacing=0.012,
        vertical_spacing=TITLES / (2 * side + LOWER + 2 * TITLES),
        subplot_titles=_titles(lens),
        figure=sheet(dark, height=2 * side + LOWER + 2 * TITLES + 108, legend=False),
    )
    _add_pictures(figure, lens, dark, grid)
    _add_steps(figure, lens, dark, grid)
    if lens.product is not None:
        _add_counts(figure, lens.product.counts, left + 1, dark)
    figure.update_layout(uirevision=f"bit-planes-{lens.planes}", margin={"l": 56, "r": 16, "t": 32, "b": 60})
    style_axes(figure, dark)
    _frame_pictures(figure, columns, dark)
    return figure


def _halves(left: int, right: int) -> list[dict[str, int] | None]:
    return [{"colspan": left}, *[None] * (left - 1), {"colspan": right}, *[None] * (right - 1)]


def _titles(lens: "BitPlanes") -> list[str]:
    planes = range(lens.planes - 1, -1, -1)
    above = ["codes", *(f"plane {j}" if lens.planes > 5 else f"plane {j} (counts {2**j})" for j in planes)]
    below = ["Full", *(f"{count} plane{'s' if count > 1 else ''}" for count in range(1, lens.planes + 1))]
    counts = "columns in which both bits are 1" if lens.product is not None else ""
    return [*above, *below, "SNR of the whole linear", counts]


def _add_pictures(figure: go.Figure, lens: "BitPlanes", dark: bool, grid: str) -> None:
    tile = lens.tile
    codes = _square(tile, "code").astype(np.uint8)
    binary = [(0.0, palette(dark).background), (1.0, lens_colour(grid, dark))]
    _add_picture(figure, tile, codes, (1, 1), "code %{z}", colorscale=sequential_scale(dark))
    for column, plane in enumerate(range(lens.planes - 1, -1, -1), start=2):
        bits = codes >> plane & 1
        _add_picture(figure, tile, bits, (1, column), f"bit %{{z}} of plane {plane}", colorscale=binary, zmin=0, zmax=1)
    names = ["full", *(f"read_{count}" for count in range(1, lens.planes + 1))]
    low, high = (float(end) for end in (tile[names].min().min(), tile[names].max().max()))
    for column, name in enumerate(names, start=1):
        values = _square(tile, name).astype(np.float32)
        scale = {"colorscale": sequential_scale(dark), "zmin": low, "zmax": high}
        _add_picture(figure, tile, values, (2, column), "weight %{z:.4g}", **scale)


def _add_picture(
    figure: go.Figure, tile: "pd.DataFrame", values: np.ndarray, at: tuple[int, int], what: str, **style: object
) -> None:
    rows, columns = np.sort(tile["row"].unique()), np.sort(tile["column"].unique())
    hover = f"row %{{y}}, column %{{x}}<br><b>{what}</b><extra></extra>"
    picture = go.Heatmap(x=columns, y=rows, z=values, showscale=False, hovertemplate=hover, **style)
    figure.add_trace(picture, row=at[0], col=at[1])


def _square(tile: "pd.DataFrame", name: str) -> np.ndarray:
    return tile.pivot(index="row", columns="column", values=name).sort_index().to_numpy()


def _add_steps(figure: go.Figure, lens: "BitPlanes", dark: bool, grid: str) -> None:
    ratios = lens.steps["snr_db"].to_numpy(dtype=float)
    gains = np.diff(ratios, prepend=np.nan)
    labels = [
        f"{ratio:.1f} dB" + (f"<br>{gain:+.1f}" if np.isfinite(gain) else "")
        for ratio, gain in zip(ratios, gains, strict=True)
    ]
    figure.add_trace(
        go.Bar(
            x=lens.steps["planes"],
            y=ratios,
            text=labels,
            textposition="outside",
            textfont={"size": 12, "color": palette(dark).muted},
            cliponaxis=False,
            marker={"color": lens_colour(grid, dark)},
            hovertemplate="%{x} planes read<br>SNR <b>%{y:.2f} dB</b><extra></extra>",
        ),
        row=3,
        col=1,
    )
    low, high = min(0.0, float(ratios.min())), max(1.0, float(ratios.max()))
    room = 0.3 * (high - low)  # for the labels
    figure.update_yaxes(title_text="SNR in dB", range=[low - room * (low < 0), high + room], row=3, col=1)
    figure.update_xaxes(title_text="planes read, highest first", dtick=1, showgrid=False, row=3, col=1)


def _add_counts(figure: go.Figure, counts: np.ndarray, column: int, dark: bool) -> None:
    i, j = np.indices(counts.shape)
    weighted = counts << (i + j)
    figure.add_trace(
        go.Heatmap(
            x=list(range(counts.shape[1])),
            y=list(range(counts.shape[0])),
            z=weighted,
            text=counts,
            texttemplate="%{text}",
            textfont={"size": 12},
            customdata=np.dstack([counts, i + j]),
            colorscale=middle_scale(dark),
            xgap=2,
            ygap=2,
            showscale=False,
            hovertemplate="bit %{y} of the activation, bit %{x} of the weight<br>both 1 in %{customdata[0]} columns, "
            "each counts 2<sup>%{customdata[1]}</sup><br>together <b>%{z}</b><extra></extra>",
        ),
        row=3,
        col=column,
    )
    figure.update_xaxes(title_text="weight plane", autorange="reversed", dtick=1, showgrid=False, row=3, col=column)
    figure.update_yaxes(title_text="activation plane", side="right", dtick=1, showgrid=False, row=3, col=column)


def _frame_pictures(figure: go.Figure, columns: int, dark: bool) -> None:
    """Square cells in a thin frame; only the outer pictures have numbers."""
    frame = {"showline": True, "mirror": True, "linecolor": palette(dark).grid, "showgrid": False, "ticks": ""}
    for row in (1, 2):
        for column in range(1, columns + 1):
            axis = figure.get_subplot(row, column).xaxis.plotly_name.replace("axis", "")
            square = {"scaleanchor": axis, "constrain": "domain", "autorange": "reversed"}
            figure.update_xaxes(**frame, constrain="domain", showticklabels=row == 2, nticks=3, row=row, col=column)
            figure.update_yaxes(**frame, **square, showticklabels=column == 1, nticks=4, row=row, col=column)
        figure.update_yaxes(title_text="row", row=row, col=1)
