"""abq jobs: the queue of calibrations."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app import formatting
from app.cli.options import JobId
from app.cli.session import open_services
from app.cli.terminal.answers import Answer, JsonOption, Table, answers

if TYPE_CHECKING:
    from storage.jobs import Job

jobs = typer.Typer(no_args_is_help=True, help="The queue: list, show, cancel, resume.")


@jobs.command("list")
@answers
def list_jobs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of jobs.")] = 20,
    as_json: JsonOption = False,
) -> Answer:
    """List jobs, newest first. Example: abq jobs list --json"""
    frame = open_services().jobs.newest(limit)
    rows = [
        [
            row["job"],
            row["run"],
            row["model"],
            f"{row['precision']} {row['method']}",
            row["state"],
            formatting.percent(row["progress"]),
            formatting.seconds(row["eta_seconds"]),
            row["error"] or row["message"],
        ]
        for row in frame.to_dict("records")
    ]
    header = ["Job", "Run", "Model", "Calibration", "State", "Progress", "Time left", "Message"]
    return Answer({"jobs": frame.to_dict("records")}, Table(header, rows) if rows else "No jobs yet.")


@jobs.command()
@answers
def show(job: JobId, as_json: JsonOption = False) -> Answer:
    """Show a job and its log. Example: abq jobs show j-0123456789"""
    services = open_services()
    found = services.jobs.get(job)
    log = services.jobs.log(found.id)
    return Answer({**asdict(found), "log": log.splitlines()}, f"{_line(found)}\n\n{log}")


@jobs.command()
@answers
def cancel(job: JobId, as_json: JsonOption = False) -> Answer:
    """Stop a job. Its finished blocks are kept. Example: abq jobs cancel j-0123456789"""
    found = open_services().jobs.cancel(job)
    return Answer(asdict(found), f"{_line(found)}{' (stopping)' if found.cancel_requested else ''}")


@jobs.command()
@answers
def resume(job: JobId, as_json: JsonOption = False) -> Answer:
    """Queue a failed or cancelled job again. It continues after its last finished block."""
    from app.jobs.executors.local import start_detached

    services = open_services()
    found = services.jobs.resume(job)
    start_detached(services.settings)
    return Answer(asdict(found), _line(found))


def _line(job: "Job") -> str:
    line = f"Job {job.id}, run {job.run_id}: {job.state}, {formatting.percent(job.progress)} done."
    return " ".join([line, job.error or job.message or ""]).strip()
