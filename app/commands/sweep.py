"""abq sweep: every model at every precision with every method, from one file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abq_core.sweep import read_sweep
from app.commands import words
from app.commands.answers import FAILURE, Answer, JsonOption, Table, answers
from app.commands.session import open_explorer
from app.settings import Settings

if TYPE_CHECKING:
    from app.services import Explorer
    from app.services.sweeps import Planned


@answers
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML: models, precisions, methods, and settings.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be queued and what it takes.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Run them here, one after the other.")] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Calibrate every model at every precision with every method. What has a run already is not queued again.

    Examples:

      abq sweep grid.yaml --dry-run

      abq sweep grid.yaml --wait --json
    """
    from app.services import sweeps

    settings = Settings.from_environment()
    explorer = open_explorer(settings)
    planned = sweeps.plan(explorer, read_sweep(file))
    rows = [_row(one) for one in planned]
    left = sum(one.is_left for one in planned)
    if dry_run:
        return Answer({"sweep": rows}, [_table(planned), _totals(planned)])
    runs = sweeps.queue(explorer, planned)
    for row, run in zip(rows, runs, strict=True):
        row["run"] = run
    if wait:
        failed = _wait(explorer, rows)
        text = f"{len(rows) - failed} of {len(rows)} calibrations are done. See them with: abq runs list"
        return Answer({"sweep": rows}, text, FAILURE if failed else 0)
    from app.executors.local import start_detached

    if left:
        start_detached(settings)
    for row, run in zip(rows, runs, strict=True):
        row["state"] = explorer.run(run).state
    return Answer({"sweep": rows}, f"{left} of {len(rows)} calibrations are queued. See them with: abq jobs list")


def _wait(explorer: "Explorer", rows: list[dict[str, Any]]) -> int:
    """Bring every run to its end; how many did not succeed."""
    from app.follow import bring_to_end

    for row in rows:
        job = explorer.job(row["run"])
        if job.state in ("queued", "running"):
            job = bring_to_end(explorer, job, f"{row['precision']} {row['method']}")
        row["state"] = job.state
    return sum(row["state"] != "succeeded" for row in rows)


def _row(one: "Planned") -> dict[str, Any]:
    spec, estimate = one.spec, one.estimate
    return {
        "model": spec.model,
        "precision": str(spec.precision),
        "method": spec.method,
        "seed": spec.seed,
        "state": one.state,
        "run": None if one.run is None else one.run.id,
        "peak_memory_bytes": estimate.peak_memory_bytes,
        "run_bytes": estimate.run_bytes,
        "quantized_bytes": estimate.quantized_bytes,
        "seconds": estimate.seconds,
    }


def _table(planned: "list[Planned]") -> Table:
    header = ["Model", "Precision", "Method", "Seed", "State", "Run", "Memory", "Time", "Size"]
    cells = [
        [
            one.spec.model,
            str(one.spec.precision),
            one.spec.method,
            str(one.spec.seed),
            one.state,
            "-" if one.run is None else one.run.id,
            words.mebibytes(one.estimate.peak_memory_bytes),
            words.seconds(one.estimate.seconds),
            words.mebibytes(one.estimate.quantized_bytes),
        ]
        for one in planned
    ]
    return Table(header, cells)


def _totals(planned: "list[Planned]") -> str:
    left = [one.estimate for one in planned if one.is_left]
    if not left:
        return f"All {len(planned)} calibrations have a run: nothing would be queued.\n"
    seconds, memory = sum(e.seconds for e in left), max(e.peak_memory_bytes for e in left)
    return (
        f"{len(left)} of {len(planned)} calibrations would be queued: about {words.seconds(seconds)} on one core, "
        f"{words.mebibytes(memory)} of memory, "
        f"{words.mebibytes(sum(e.run_bytes for e in left))} on disk.\n"
    )
