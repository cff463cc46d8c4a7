"""The queue as HTML: one row a job with its progress, what is next and how long."""

import pandas as pd

from app import formatting
from app.web.tabs import words
from app.web.tabs.table import Cell, Heading, table

HEADINGS = [
    Heading("run"), Heading("model"), Heading("precision"), Heading("method"), Heading("state"), Heading("progress"),
    Heading("time", numeric=True), Heading("left", numeric=True), Heading("now"),
]  # fmt: skip
EMPTY = words.empty(
    "The queue is empty",
    "Press Calibrate: the job runs in a process of its own, goes on when this page is closed, and its losses and log "
    "stand here while it works.",
)


def queue_html(jobs: pd.DataFrame, chosen: str) -> str:
    """The jobs, newest first; `chosen` is the job whose losses and log are shown."""
    if jobs.empty:
        return EMPTY
    rows = []
    for job in jobs.to_dict("records"):
        share = formatting.number(job["progress"]) or 0.0
        share = 1.0 if job["state"] == "succeeded" else share
        bar = f'<span class="abq-bar"><i style="width:{100 * share:.1f}%"></i></span>{100 * share:.0f} %'
        left = formatting.seconds(job["eta_seconds"]) if job["state"] == "running" else formatting.MISSING
        rows.append(
            (
                str(job["job"]),
                [
                    Cell(str(job["run"])),
                    Cell(str(job["model"])),
                    Cell(str(job["precision"])),
                    Cell(str(job["method"])),
                    Cell(state_words(job)),
                    Cell(bar, share, html=True),
                    Cell(formatting.seconds(job["seconds"]), formatting.number(job["seconds"])),
                    Cell(left, formatting.number(job["eta_seconds"])),
                    Cell(f'<span class="abq-wrap">{words.escape(_now(job))}</span>', _now(job), html=True),
                ],
            )
        )
    return table(HEADINGS, rows, "Calibrations, newest first", chosen)


def state_words(job: dict[str, object]) -> str:
    """The state, and where a running job's worker fell silent, that."""
    if job["state"] == "running" and not job["alive"]:
        return "running, worker silent"
    return str(job["state"])


def _now(job: dict[str, object]) -> str:
    if job["state"] == "failed" and isinstance(job["error"], str):
        return job["error"]
    return str(job["message"] or "") if job["state"] in ("running", "queued") else ""
