"""What zero-shot tasks gave, as a table: one row a run, one column a task."""

from typing import Any

import pandas as pd

from app import formatting
from app.web.tabs import words
from app.web.tabs.table import Cell, Heading, table

CAPTION = "Zero-shot tasks: accuracy, and below it accuracy with normalized lengths, with their standard errors"


def task_table(scores: pd.DataFrame, model: str) -> str:
    """The latest scores of the model's runs, and of the model as it is; nothing where no task was asked."""
    mine = scores[scores["model"].eq(model)]
    if mine.empty:
        return ""
    names = sorted(mine["task"].unique())
    tasks = [Heading(words.escape(name), numeric=True) for name in names]
    rows = []
    for run, found in mine.groupby("run", sort=False):
        first, by_task = found.iloc[0], found.set_index("task").to_dict("index")
        method = "full precision" if first["method"] == "none" else str(first["method"])
        cells = [_cell(by_task[name]) if name in by_task else Cell(formatting.MISSING, "") for name in names]
        rows.append(
            (str(run), [Cell(str(first["precision"])), Cell(method), *cells, Cell(str(run) or formatting.MISSING)])
        )
    headings = [Heading("precision"), Heading("method"), *tasks, Heading("run")]
    return table(headings, rows, CAPTION, selectable=False)


def _cell(score: dict[str, Any]) -> Cell:
    """The task's own metric; acc_norm below it, and how many questions were asked where it was not all."""
    metrics, stderr, name = score["metrics"], score["stderr"], score["headline"]
    lines = [formatting.task_metric(name, metrics[name], stderr.get(name))]
    if name != "acc_norm" and "acc_norm" in metrics:
        lines.append(formatting.task_metric("acc_norm", metrics["acc_norm"], stderr.get("acc_norm")))
    if score["samples"] != score["of"]:
        lines.append(f"{score['samples']:,} of {score['of']:,}")
    return Cell("<br>".join(words.escape(line) for line in lines), metrics[name], html=True)
