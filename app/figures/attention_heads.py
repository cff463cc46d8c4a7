"""All attention heads of a block as small maps, sorted by KL, and their entropy before and after."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from abq_core.analysis.attention_heads import compared_lens
from app.figures.attention import square
from app.figures.base import empty_figure, line_style, sheet, style_axes
from app.figures.palette import LENSES, palette, probability_scale

WIDTH = 880  # pixels that the maps of one row share at a page width of 1280
LARGEST = 200  # pixels of one map
TITLE = 24
ENTROPY = 190
SHADES = 255


def columns_for(heads: int) -> int:
    """How many maps a row has: at most 8, and few empty places in the last row."""
    if heads <= 4:
        return heads
    wide = (4, 5, 6) if heads <= 12 else (8, 7, 6)
    return min(wide, key=lambda columns: -heads % columns)


def heads_figure(
    attention: pd.DataFrame, heads: pd.DataFrame, block: int, chosen: int, dark: bool = False, lens: str = "corrected"
) -> go.Figure:
    """Small maps of one lens, largest KL first; below, the entropy of each head in the same order.

    attention: as for `attention_figure`.  heads: from `attention_heads`.  chosen: the head with a thick frame.  A small
    triangle marks the attention sink.
    """
    rows = heads[heads["block"].eq(block)]
    if rows.empty:
        return empty_figure(f"There are no attention maps of block {block}.", dark)
    lens = compared_lens(attention, lens)
    rows = rows.sort_values(f"kl_{lens}", ascending=False)
    columns = columns_for(len(rows))
    lines = -(-len(rows) // columns)
    side = min(LARGEST, WIDTH // columns)
    height = lines * (side + TITLE) + ENTROPY + 130
    blank = [""] * (lines * columns - len(rows))
    figure = make_subplots(
        rows=lines + 1,
        cols=columns,
        specs=[*[[{}] * columns for _ in range(lines)], [{"colspan": columns}, *[None] * (columns - 1)]],
        row_heights=[*[side] * lines, ENTROPY],
        horizontal_spacing=0.012,
        vertical_spacing=TITLE / height,
        subplot_titles=[*(_title(row, lens) for row in rows.to_dict("records")), *blank, ""],
        figure=sheet(dark, height=height),
    )
    of_block = attention[attention["block"].eq(block)]
    for index, row in enumerate(rows.to_dict("records")):
        at = divmod(index, columns)
        _add_map(figure, of_block[of_block["head"].eq(row["head"])], row, (at[0] + 1, at[1] + 1), lens, dark)
    _add_entropy(figure, rows, lines + 1, dark)
    figure.update_layout(
        uirevision=f"heads-{block}",
        legend={"y": (ENTROPY + 4) / (height - 90), "yanchor": "bottom"},
        margin={"l": 64, "r": 16, "t": 34, "b": 56},
    )
    style_axes(figure, dark)
    _frame_maps(figure, [int(head) for head in rows["head"]], chosen, columns, dark)
    return figure


def _title(row: dict[str, object], lens: str) -> str:
    return f"head {row['head']}, KL {row[f'kl_{lens}']:.2g}"


def _add_map(
    figure: go.Figure, rows: pd.DataFrame, numbers: dict[str, object], at: tuple[int, int], lens: str, dark: bool
) -> None:
    size = int(rows["query"].max()) + 1
    probabilities = square(rows, lens, size)
    shades = np.where(np.isnan(probabilities), 0, np.rint(SHADES * probabilities)).astype(np.uint8)  # a byte per cell
    head = str(numbers["head"])
    words = f"head {head}, KL <b>{numbers[f'kl_{lens}']:.3g}</b> nats<br>entropy {numbers['entropy_full']:.2f} in full "
    words += (
        f"precision, {numbers[f'entropy_{lens}']:.2f} {LENSES[lens].word.lower()}<br>sink: key {numbers['sink']} gets "
    )
    words += f"{100 * numbers['sink_full']:.0f} % and {100 * numbers[f'sink_{lens}']:.0f} %"
    figure.add_trace(
        go.Heatmap(
            z=shades,
            zmin=0,
            zmax=SHADES,
            colorscale=probability_scale(dark),
            showscale=False,
            meta={"select": head},
            hovertemplate=f"{words}<extra></extra>",
        ),
        row=at[0],
        col=at[1],
    )
    figure.add_trace(
        go.Scatter(
            x=[numbers["sink"]],
            y=[size - 0.5],
            mode="markers",
            marker={"symbol": "triangle-up", "size": 10, "color": palette(dark).more},
            cliponaxis=False,
            showlegend=False,
            meta={"select": head},
            hovertemplate=f"{words}<extra></extra>",
        ),
        row=at[0],
        col=at[1],
    )
    figure.update_yaxes(range=[size - 0.5, -0.5], row=at[0], col=at[1])
    figure.update_xaxes(range=[-0.5, size - 0.5], row=at[0], col=at[1])


def _add_entropy(figure: go.Figure, rows: pd.DataFrame, line: int, dark: bool) -> None:
    names = [f"{head}" for head in rows["head"]]
    for lens in LENSES:
        if f"entropy_{lens}" not in rows:
            continue
        style = line_style(lens, dark)
        figure.add_trace(
            go.Scatter(
                x=names,
                y=rows[f"entropy_{lens}"],
                hovertemplate=f"{LENSES[lens].word}, head %{{x}}<br>entropy <b>%{{y:.3f}} nats</b><extra></extra>",
                **{**style, "mode": "markers"},
            ),
            row=line,
            col=1,
        )
    figure.update_xaxes(title_text="head, largest KL first", type="category", showgrid=False, row=line, col=1)
    figure.update_yaxes(title_text="entropy in nats", row=line, col=1)


def _frame_maps(figure: go.Figure, heads: list[int], chosen: int, columns: int, dark: bool) -> None:
    colours = palette(dark)
    for index, head in enumerate(heads):
        row, column = index // columns + 1, index % columns + 1
        frame = {
            "showline": True,
            "mirror": True,
            "linecolor": colours.ink if head == chosen else colours.grid,
            "linewidth": 3 if head == chosen else 1,
            "showgrid": False,
            "showticklabels": False,
            "ticks": "",
            "constrain": "domain",
        }
        anchor = figure.get_subplot(row, column).xaxis.plotly_name.replace("axis", "")
        figure.update_xaxes(**frame, row=row, col=column)
        figure.update_yaxes(**frame, scaleanchor=anchor, row=row, col=column)
    for index in range(len(heads), -(-len(heads) // columns) * columns):
        where = {"row": index // columns + 1, "col": index % columns + 1}
        figure.update_xaxes(visible=False, **where)
        figure.update_yaxes(visible=False, **where)
