"""abq runs and abq report: what calibrations left."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from app import formatting
from app.cli.answers import FAILURE, Answer, JsonOption, Table, answers
from app.cli.calibrate import EVALUATION_HEADER, evaluation_cells
from app.cli.options import RunId
from app.cli.session import open_services

runs = typer.Typer(no_args_is_help=True, help="Finished and unfinished runs: list, show, verify, delete, export, gc.")


@runs.command("list")
@answers
def list_runs(as_json: JsonOption = False) -> Answer:
    """List runs with their latest evaluation, newest first. Example: abq runs list --json"""
    records = open_services().runs.frame().to_dict("records")
    rows = [
        [
            row["run"] or "-",
            row["model"],
            row["state"],
            *evaluation_cells(row),
            formatting.task_average(row),
            row["note"],
        ]
        for row in records
    ]
    header = ["Run", "Model", "State", *EVALUATION_HEADER, "Tasks", "Note"]
    return Answer({"runs": records}, Table(header, rows) if rows else "There are no runs yet: abq calibrate makes one.")


@runs.command()
@answers
def show(run: RunId, as_json: JsonOption = False) -> Answer:
    """Show one run: its evaluation, its blocks, the command that makes it again."""
    from abq_core.spec import CalibrationSpec

    services = open_services()
    found = services.runs.get(run)
    record = next(row for row in services.runs.frame().to_dict("records") if row["run"] == found.id)
    blocks = services.storage.runs.blocks(found.id)
    command = CalibrationSpec.from_dict(found.spec).command_line()
    rows = [
        [str(b.block), f"{b.distances.get('cosine', float('nan')):.5f}", formatting.seconds(b.seconds), b.sha256[:12]]
        for b in blocks
    ]
    texts = services.runs.texts(found.id)
    asked = services.tasks.frame(found.id).to_dict("records")
    data = {
        **record,
        "task_scores": asked,
        "texts": texts,
        "command": command,
        "job": found.job_id,
        "blocks": blocks,
        "spec": found.spec,
    }
    pieces: list[str | Table] = [
        Table(["Run", "State", *EVALUATION_HEADER], [[found.id, found.state, *evaluation_cells(record)]]),
        *([Table(formatting.TASK_HEADER, [formatting.task_cells(row) for row in asked])] if asked else []),
        Table(["Block", "Cosine to full", "Took", "sha256"], rows),
        f"Calibrated on {formatting.texts(texts)}.\n{command}\n",
    ]
    return Answer(data, pieces)


@runs.command()
@answers
def delete(
    run: RunId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Delete a run, its measurements and its files. Example: abq runs delete r-0123456789 --yes"""
    services = open_services()
    found = services.runs.get(run)
    if not yes:
        typer.confirm(
            f"Delete run {found.id} ({found.precision} {found.method} of {found.model})?", abort=True, err=True
        )
    services.runs.delete(found.id)
    return Answer({"deleted": found.id}, f"Run {found.id} is deleted.")


@runs.command()
@answers
def verify(
    run: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids; default: all runs.")] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Compare the files of runs with what was recorded. Exit code 1 where one is missing or changed."""
    from app.runs.run_check import verify as find_wrong

    services = open_services()
    chosen = [services.runs.get(run_id) for run_id in run] if run else services.storage.runs.list()
    wrong = {found.id: find_wrong(services.storage.runs, services.settings.runs_dir, found) for found in chosen}
    rows = [[run_id, problem] for run_id, problems in wrong.items() for problem in problems]
    data = {"checked": len(wrong), "wrong": {run_id: problems for run_id, problems in wrong.items() if problems}}
    if not rows:
        return Answer(data, f"{len(wrong)} runs are as they were recorded.")
    return Answer(data, Table(["Run", "What is wrong"], rows), FAILURE)


@runs.command()
@answers
def gc(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it; without this, only say what there is.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Find files that no run needs: of deleted runs, of writers that died, blocks never recorded. Removes with --yes.

    Runs that are queued or running are left alone. Example: abq runs gc, then abq runs gc --yes
    """
    from app.runs.run_check import leftovers

    services = open_services()
    found = leftovers(services.storage.runs, services.storage.jobs, services.settings.runs_dir)
    for leftover in found if yes else []:
        leftover.remove()
    size = sum(leftover.bytes for leftover in found)
    data = {"removed": yes, "bytes": size, "leftovers": found}
    if not found:
        return Answer(data, "Nothing is left over.")
    rows = [[str(leftover.path), formatting.size(leftover.bytes), leftover.why] for leftover in found]
    total = f"{formatting.size(size)} {'is removed' if yes else 'can be removed with --yes'}."
    return Answer(data, [Table(["Left over", "Size", "Why"], rows), total])


@runs.command()
@answers
def export(
    run: RunId,
    to: Annotated[Path, typer.Option("--to", help="Folder that gets a folder named after the run.")] = Path("."),
    as_json: JsonOption = False,
) -> Answer:
    """Copy a run's files out: spec, blocks, diagnostics, evaluation. Example: abq runs export r-0123456789 --to out"""
    path = open_services().runs.export(run, to)
    return Answer({"run": run, "path": str(path)}, str(path))


@answers
def report(
    run: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs; default: all finished ones.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file; default: in the data folder.")] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Write one self-contained HTML file about runs. Example: abq report r-0123456789 --out report.html"""
    services = open_services()
    default = services.settings.reports_dir / f"report-{datetime.now():%Y%m%d-%H%M%S}.html"
    path = services.reports.write(run or [], out or default)
    return Answer({"path": str(path)}, str(path))
