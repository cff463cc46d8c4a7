"""Scores of zero-shot tasks as a table: one row per run, one column per task."""

from typing import Any

import pandas as pd

from app.formatting import MISSING, count, task_metric
from app.web import html
from app.web.page.table import Cell, Heading, table

CAPTION = "Zero-shot tasks: accuracy, below it accuracy with length normalization, each with its standard error"


def task_table(scores: pd.DataFrame, model: str) -> str:
    """The latest scores of a model's runs and of the model itself; "" if no task was evaluated."""
    rows_of_model = scores[scores["model"].eq(model)]
    if rows_of_model.empty:
        return ""
    names = sorted(rows_of_model["task"].unique())
    rows = []
    for run, found in rows_of_model.groupby("run", sort=False):
        first, by_task = found.iloc[0], found.set_index("task").to_dict("index")
        method = "full precision" if first["method"] == "none" else str(first["method"])
        cells = [_cell(by_task[name]) if name in by_task else Cell(MISSING, "") for name in names]
        rows.append((str(run), [Cell(str(first["precision"])), Cell(method), *cells, Cell(str(run) or MISSING)]))
    tasks = [Heading(name, numeric=True) for name in names]
    headings = [Heading("precision"), Heading("method"), *tasks, Heading("run")]
    return table(headings, rows, CAPTION, selectable=False)


def _cell(score: dict[str, Any]) -> Cell:
    """The main metric of a task.

    Also acc_norm if that is another one, and the number of questions if not all were asked.
    """
    metrics, stderr, name = score["metrics"], score["stderr"], score["headline"]
    lines = [task_metric(name, metrics[name], stderr.get(name))]
    if name != "acc_norm" and "acc_norm" in metrics:
        lines.append(task_metric("acc_norm", metrics["acc_norm"], stderr.get("acc_norm")))
    if score["samples"] != score["of"]:
        lines.append(f"{count(score['samples'])} of {count(score['of'])}")
    return Cell(html.render("lines.html", lines=lines), metrics[name])
