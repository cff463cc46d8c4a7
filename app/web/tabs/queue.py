"""The job queue as a table: one row per job with its progress and remaining time."""

import pandas as pd

from app.formatting import MISSING, number, seconds
from app.web import html
from app.web.page.table import Cell, Heading, sort_number, table

HEADINGS = [
    Heading("run"), Heading("model", wraps=True, optional=1), Heading("precision", wraps=True), Heading("method"),
    Heading("state", wraps=True), Heading("progress"), Heading("time", numeric=True),
    Heading("left", numeric=True, optional=2), Heading("now", wraps=True),
]  # fmt: skip
EMPTY = (
    "No jobs yet",
    "Press Calibrate to queue one. A job runs in its own process and continues when you close this page. Its losses "
    "and log appear here while it runs.",
)


def queue_table(jobs: pd.DataFrame, selected: str) -> str:
    """The jobs, newest first. selected: id of the job whose losses and log are shown."""
    if jobs.empty:
        return html.empty(*EMPTY)
    rows = [(str(job["job"]), _cells(job)) for job in jobs.to_dict("records")]
    return table(HEADINGS, rows, "Calibration jobs, newest first", selected)


def _cells(job: dict[str, object]) -> list[Cell]:
    done = 1.0 if job["state"] == "succeeded" else number(job["progress"]) or 0.0
    return [
        Cell(str(job["run"])),
        Cell(str(job["model"])),
        Cell(str(job["precision"])),
        Cell(str(job["method"])),
        Cell(state_text(job)),
        Cell(html.render("progress.html", share=done), done),
        Cell(seconds(job["seconds"]), sort_number(job["seconds"])),
        Cell(seconds(job["eta_seconds"]) if job["state"] == "running" else MISSING, sort_number(job["eta_seconds"])),
        Cell(_message(job)),
    ]


def state_text(job: dict[str, object]) -> str:
    """The state of a job; a running job whose worker sends no heartbeat says so."""
    if job["state"] == "running" and not job["alive"]:
        return "running, worker not responding"
    return str(job["state"])


def _message(job: dict[str, object]) -> str:
    if job["state"] == "failed" and isinstance(job["error"], str):
        return job["error"]
    return str(job["message"] or "") if job["state"] in ("running", "queued") else ""
