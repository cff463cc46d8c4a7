"""Loss terms of a calibration over its blocks and epochs."""

import pandas as pd
import plotly.graph_objects as go

from app.figures.base import block_axis, empty_figure, sheet, style_axes
from app.figures.palette import lens_colour, palette

TERMS = {
    "total": ("total", "solid", "circle"),
    "dlc": ("DLC", "dash", "diamond"),
    "akl": ("AKL", "dot", "triangle-up"),
    "mse": ("MSE", "dashdot", "square"),
    "kl": ("KL of the end-to-end pass", "longdash", "x"),
    "blocks": ("block targets of the end-to-end pass", "longdashdot", "cross"),
}


def loss_figure(losses: pd.DataFrame, blocks: int = 0, dark: bool = False) -> go.Figure:
    """Loss per epoch (log), one line per term.

    Block b spans b - 0.5 to b + 0.5 on x; the end-to-end pass follows last.
    losses: block, epoch, term, value.  blocks: the number of blocks, if more are expected than have losses.
    """
    rows = losses[losses["value"] > 0] if len(losses) else losses
    if rows.empty:
        return empty_figure("No loss to show: rtn and smoothquant learn nothing.", dark, 160)
    figure = sheet(dark, height=400)
    joint = set(rows.loc[rows["term"] == "kl", "block"])  # the end-to-end pass is stored as one more block
    for term in TERMS:
        part = rows[rows["term"].eq(term)].sort_values(["block", "epoch"])
        if len(part):
            figure.add_trace(_term_line(term, part, joint, _last_epochs(rows, joint), dark))
    count = min(joint) if joint else max(blocks, int(rows["block"].max()) + 1)
    figure.update_xaxes(**block_axis(count, and_all=bool(joint)))
    figure.update_yaxes(title_text="loss (log)", type="log", exponentformat="power")
    figure.update_layout(uirevision="losses", margin={"t": 36})
    return style_axes(figure, dark)


def _last_epochs(rows: pd.DataFrame, joint: set[int]) -> dict[bool, int]:
    """The last epoch of the blocks (False) and the last part of the end-to-end pass (True)."""
    return rows.groupby(rows["block"].isin(joint))["epoch"].max().to_dict()


def _term_line(term: str, rows: pd.DataFrame, joint: set[int], last: dict[bool, int], dark: bool) -> go.Scatter:
    """One loss term over all blocks, interrupted between blocks."""
    name, dash, marker = TERMS[term]
    xs: list[float | None] = []
    ys: list[float | None] = []
    where: list[tuple[str, int]] = []
    for block, stretch in rows.groupby("block"):
        xs += [*(int(block) - 0.42 + 0.84 * stretch["epoch"] / last[block in joint]), None]
        ys += [*stretch["value"], None]
        place = "all blocks, part" if block in joint else f"block {block}, epoch"
        where += [*((place, int(epoch)) for epoch in stretch["epoch"]), ("", 0)]
    colour = lens_colour("corrected", dark) if term == "total" else palette(dark).muted
    return go.Scatter(
        x=xs,
        y=ys,
        name=name,
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2.4 if term == "total" else 1.5},
        marker={"symbol": marker, "size": 6, "color": colour},
        customdata=where,
        hovertemplate=f"{name}<br>%{{customdata[0]}} %{{customdata[1]}}<br><b>%{{y:.4g}}</b><extra></extra>",
    )
