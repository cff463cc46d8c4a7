"""Stored profiles of a decode step for the Throughput tab, as a table and as one sentence."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from app import formatting
from app.web import html
from app.web.page.table import Cell, Heading, table

Profile = Mapping[str, Any]
MISSING_PROFILE = "No token of this model was profiled yet: press Profile one token."


def latest_profile(measured: pd.DataFrame, model: str, column: str) -> Profile | None:
    """The newest profile of a column of a model, otherwise of another column; None if there is none."""
    if measured.empty or "parts" not in measured:
        return None
    profiles = measured[measured["kind"].eq("profile") & measured["model"].eq(model)]
    chosen = profiles[profiles["column"].eq(column)]
    rows = (profiles if chosen.empty else chosen).to_dict("records")
    return {str(name): value for name, value in rows[0].items()} if rows else None


def profile_table(profile: Profile) -> str:
    """The parts of a step: time, share, bytes read and the share of the memory bandwidth."""
    first, *others = formatting.PROFILE_HEADER
    headings = [Heading(first), *(Heading(name, numeric=True, wraps=True) for name in others)]
    keys = [(part["seconds"], part["seconds"], part["nbytes"]) for part in profile["parts"]]
    keys.append((profile["seconds"], profile["seconds"], 0))
    rows = []
    for cells, (time, share, nbytes) in zip(formatting.profile_cells(profile), keys, strict=True):
        orders = (None, time, share, nbytes, formatting.number(cells[-1].rstrip(" %")))
        rows.append(("", [Cell(text, order) for text, order in zip(cells, orders, strict=True)]))
    return table(headings, rows, "Parts of a decode step", selectable=False)


def profile_answer(profile: Profile) -> str:
    """The time of a step, its largest part, and how close that is to the memory bandwidth."""
    largest = max(profile["parts"], key=lambda part: part["seconds"])
    reached = formatting.bandwidth_share(largest, profile["read_gb_per_second"])
    return html.render(
        "profile_answer.html",
        column=profile["column"],
        time=formatting.seconds(profile["seconds"]),
        positions=int(profile["positions"]),
        largest=largest["kind"],
        share=formatting.percent(largest["seconds"] / profile["seconds"]),
        reached=None if reached is None else formatting.percent(reached),
        bytes=formatting.size(largest["nbytes"]),
    )
