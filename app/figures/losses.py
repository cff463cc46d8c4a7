"""Loss terms while a calibration learns: one line a term, over the blocks."""

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
    """Loss per epoch (log); block b fills the stretch from b - 0.5 to b + 0.5 of the x-axis. The end-to-end pass, in
    which all learn together, has one more behind the last.

    blocks: how many there will be at least.
    """
    rows = losses[losses["value"] > 0] if len(losses) else losses
    if rows.empty:
        return empty_figure(
            "No loss yet: rtn and smoothquant learn nothing, the other methods show theirs here.", dark, 160
        )
    figure = sheet(dark, height=400)
    together = set(rows.loc[rows["term"] == "kl", "block"])  # the number behind the last block's, or nothing
    last = rows.groupby(rows["block"].isin(together))["epoch"].max().to_dict()  # of the blocks (False) and of the pass
    for term, (word, dash, marker) in TERMS.items():
        part = rows[rows["term"].eq(term)].sort_values(["block", "epoch"])
        if part.empty:
            continue
        xs: list[float | None] = []
        ys: list[float | None] = []
        where: list[tuple[str, int]] = []
        for block, stretch in part.groupby("block"):
            xs += [*(int(block) - 0.42 + 0.84 * stretch["epoch"] / last[block in together]), None]
            ys += [*stretch["value"], None]
            place = "all blocks, part" if block in together else f"block {block}, epoch"
            where += [*((place, int(epoch)) for epoch in stretch["epoch"]), ("", 0)]
        colour = lens_colour("corrected", dark) if term == "total" else palette(dark).muted
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                name=word,
                mode="lines+markers",
                line={"color": colour, "dash": dash, "width": 2.4 if term == "total" else 1.5},
                marker={"symbol": marker, "size": 6, "color": colour},
                customdata=where,
                hovertemplate=f"{word}<br>%{{customdata[0]}} %{{customdata[1]}}<br><b>%{{y:.4g}}</b><extra></extra>",
            )
        )
    count = min(together) if together else max(blocks, int(rows["block"].max()) + 1)
    figure.update_xaxes(**block_axis(count, and_all=bool(together)))
    figure.update_yaxes(title_text="loss (log)", type="log", exponentformat="power")
    figure.update_layout(uirevision="losses", margin={"t": 36})
    return style_axes(figure, dark)
