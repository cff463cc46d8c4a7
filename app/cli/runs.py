"""abq runs and abq report: results of calibrations."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abq_core.imports.spec import is_import
from app import formatting
from app.cli.calibrate import EVALUATION_HEADER, evaluation_cells
from app.cli.options import ForceOption, RunId
from app.cli.session import open_services
from app.cli.terminal.answers import FAILURE, Answer, JsonOption, Table, answers, confirm

if TYPE_CHECKING:
    from app.services.lenses.plane_reads import PlaneRead

runs = typer.Typer(no_args_is_help=True, help="Runs: list, show, mixes, planes, verify, repair, delete, export, gc.")


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
            f"example. {row['note']}".strip() if row["example"] else row["note"],
        ]
        for row in records
    ]
    header = ["Run", "Model", "State", *EVALUATION_HEADER, "Tasks", "Note"]
    return Answer({"runs": records}, Table(header, rows) if rows else "No runs yet. Make one with abq calibrate.")


@runs.command()
@answers
def show(run: RunId, as_json: JsonOption = False) -> Answer:
    """Show one run: evaluation, blocks, and the command that reproduces it."""
    from app.runs.specs import read_spec

    services = open_services()
    found = services.runs.get(run)
    record = next(row for row in services.runs.frame().to_dict("records") if row["run"] == found.id)
    blocks = services.storage.runs.blocks(found.id)
    command = read_spec(found.spec).command_line()
    rows = [
        [str(b.block), f"{b.distances.get('cosine', float('nan')):.5f}", formatting.seconds(b.seconds), b.sha256[:12]]
        for b in blocks
    ]
    texts = services.runs.texts(found.id)
    scores = services.tasks.frame(found.id).to_dict("records")
    weights = services.runs.stored_weights(found.id)
    buckets = services.evaluation.kl_buckets(found.id).to_dict("records")
    data = {
        **record,
        "kl_buckets": buckets,
        "task_scores": scores,
        "texts": texts,
        "weights": weights,
        "command": command,
        "job": found.job_id,
        "blocks": blocks,
        "spec": found.spec,
    }
    pieces: list[str | Table] = [
        Table(["Run", "State", *EVALUATION_HEADER], [[found.id, found.state, *evaluation_cells(record)]]),
        *([Table(formatting.BUCKET_HEADER, [formatting.bucket_cells(row) for row in buckets])] if buckets else []),
        *([Table(formatting.TASK_HEADER, [formatting.task_cells(row) for row in scores])] if scores else []),
        Table(["Block", "Cosine to full", "Time", "sha256"], rows),
        "" if weights is None else f"The model's file stores {formatting.stored_weights(weights)}.\n",
        f"Imported with:\n{command}\n"
        if is_import(found.spec)
        else f"Calibrated on {formatting.texts(texts)}.\n{command}\n",
    ]
    return Answer(data, pieces)


@runs.command()
@answers
def mixes(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, as `abq runs list` shows it.")],
    as_json: JsonOption = False,
) -> Answer:
    """Tell whether each mix of precisions is better than the best uniform precision of its size.

    Both were calibrated with the same method and evaluated on the same text. Example: abq runs mixes builtin
    """
    from app.services.local_path import local_path

    services = open_services()
    checks = services.allocation.mix_checks(local_path(model))
    rows = [[str(check.mix["run"]), *evaluation_cells(check.mix), check.verdict] for check in checks]
    shown = Table(["Run", *EVALUATION_HEADER, "Verdict"], rows)
    content = {"model": model, "mixes": [check.to_dict() for check in checks]}
    return Answer(content, shown if rows else f"No mix of {model} was calibrated yet. Make one with abq allocate.")


@runs.command()
@answers
def planes(
    run: RunId,
    prompt: Annotated[
        str, typer.Option("--prompt", help="A text to continue at each number of planes.")
    ] = "Once upon a time",
    as_json: JsonOption = False,
) -> Answer:
    """Read a run at fewer bits, by leaving out the lowest bit planes of its weights.

    Nothing is calibrated again. Example: abq runs planes r-0123456789 --json
    """
    from app.jobs.progress_line import ProgressLine

    service, reads = open_services().lenses.plane_reads, []
    counts = service.counts(run)
    with ProgressLine() as line:
        for done, count in enumerate(counts):
            line.show("planes", done / len(counts), f"Reading {count} of {counts[0]} bit planes.", None)
            reads.append(service.read(run, count, prompt))
    rows = [_plane_cells(read) for read in reads]
    header = ["Planes", "Bits (model)", "Weights", "Perplexity", "KL", "KL rounded", "Same top", "Speed", "Text"]
    found = [read.to_dict() for read in reads]
    return Answer({"run": run, "prompt": prompt, "reads": found}, Table(header, rows))


def _plane_cells(read: "PlaneRead") -> list[str]:
    at, scores = read.at, read.at.scores
    return [
        str(at.planes),
        formatting.bits(read.bits_per_parameter),
        formatting.size(at.weight_bytes),
        formatting.perplexity(scores.perplexity, scores.perplexity_stderr),
        formatting.nats(scores.kl_mean),
        formatting.nats(at.rounded.kl_mean),
        formatting.percent(scores.same_top),
        formatting.tokens_per_second(read.written.tokens_per_second),
        " ".join(read.written.text.split()),
    ]


@runs.command()
@answers
def delete(
    run: RunId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Delete a run, its measurements and its files. Example: abq runs delete r-0123456789 --yes"""
    services = open_services()
    found = services.runs.get(run)
    if not yes:
        confirm(f"Delete run {found.id} ({found.precision} {found.method} of {found.model})?")
    services.runs.delete(found.id)
    return Answer({"deleted": found.id}, f"Run {found.id} was deleted.")


@runs.command()
@answers
def verify(
    run: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids. Default: all runs.")] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Check the files of runs against their recorded hashes.

    Exit code 1 if one is missing or changed.
    """
    from app.runs.run_check import verify as problems_of

    services = open_services()
    ids = dict.fromkeys(services.runs.get(run_id).id for run_id in run or [])
    chosen = [services.runs.get(run_id) for run_id in ids] if run else services.storage.runs.list()
    problems_by_run = {
        found.id: problems_of(services.storage.runs, services.settings.runs_dir, found) for found in chosen
    }
    rows = [[run_id, problem] for run_id, problems in problems_by_run.items() for problem in problems]
    data = {
        "checked": len(problems_by_run),
        "wrong": {run_id: problems for run_id, problems in problems_by_run.items() if problems},
    }
    if not rows:
        return Answer(data, f"{len(problems_by_run)} runs match their records.")
    return Answer(data, Table(["Run", "Problem"], rows), FAILURE)


@runs.command()
@answers
def repair(run: RunId, as_json: JsonOption = False) -> Answer:
    """Make the damaged files of a run again from its spec. Example: abq runs repair r-0123456789

    Intact blocks are kept.
    If that is impossible, because the model, the text or a version changed since, the error says what is lost.
    """
    from app.jobs.repair import repair as repair_run

    done = repair_run(open_services(), run)
    if not done.damaged:
        return Answer(done, f"The files of run {done.run} match their records.")
    lines = [f"Repaired run {done.run}:", *done.damaged]
    if done.changed:
        blocks = ", ".join(map(str, done.changed))
        lines.append(f"New files of blocks {blocks} differ from the old ones, which another machine or version made.")
    if done.lost:
        lines += ["Lost:", *done.lost]
    if done.remaining:
        lines += ["Still wrong:", *done.remaining]
    return Answer(done, "\n".join(lines), FAILURE if done.remaining else 0)


@runs.command()
@answers
def gc(
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove the files. Without it they are only listed.")
    ] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Find files that no run needs, and remove them with --yes.

    They belong to deleted runs or crashed writers, or are unrecorded blocks.

    Runs that are queued or running are skipped. Example: abq runs gc, then abq runs gc --yes
    """
    from app.runs.run_check import leftovers

    services = open_services()
    found = leftovers(services.storage.runs, services.storage.jobs, services.settings.runs_dir)
    for leftover in found if yes else []:
        leftover.remove()
    size = sum(leftover.bytes for leftover in found)
    data = {"removed": yes, "bytes": size, "leftovers": found}
    if not found:
        return Answer(data, "No leftover files.")
    rows = [[str(leftover.path), formatting.size(leftover.bytes), leftover.why] for leftover in found]
    total = f"{formatting.size(size)} {'removed' if yes else 'can be removed with --yes'}."
    return Answer(data, [Table(["File", "Size", "Reason"], rows), total])


@runs.command()
@answers
def export(
    run: RunId,
    to: Annotated[Path, typer.Option("--to", help="Parent of the new folder, which is named after the run.")] = Path(
        "."
    ),
    as_json: JsonOption = False,
) -> Answer:
    """Copy a run's own files: spec, blocks, diagnostics, evaluation. For a checkpoint of another runtime: abq export.

    Example: abq runs export r-0123456789 --to out
    """
    path = open_services().runs.export(run, to)
    return Answer({"run": run, "path": str(path)}, str(path))


@answers
def report(
    run: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids. Default: all finished runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file. Default: in the data folder.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> Answer:
    """Write one self-contained HTML file about runs.

    Example: abq report r-0123456789 --out report.html
    """
    services = open_services()
    default = services.settings.reports_dir / f"report-{datetime.now():%Y%m%d-%H%M%S}.html"
    path = services.reports.write(run or [], out or default, force=force)
    return Answer({"path": str(path)}, str(path))
