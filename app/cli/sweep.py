"""abq sweep: every model at every precision with every method, from one file."""

import contextlib
import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from abq_core.planning.sweep import read_sweep
from app.cli.session import open_services
from app.cli.terminal.answers import FAILURE, Answer, JsonOption, answers
from app.cli.terminal.planned import planned_row, planned_table, planned_totals
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.jobs.executors.ray import RayCluster
    from app.services import Services
    from app.services.sweeps import PlannedCalibration
    from storage.jobs import Job


class ExecutorError(ValueError):
    """An executor that cannot be used, or an option of another executor."""


@answers
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML: models, precisions, methods, and settings.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be queued and its cost.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Run them in the foreground, one after the other.")] = False,
    executor: Annotated[
        Literal["local", "ray"], typer.Option("--executor", help="ray: on a Ray cluster; waits until all are done.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="HOST:PORT of the cluster's head. Default: this machine.")
    ] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Calibrate every model at every precision with every method.

    Calibrations that have a run are skipped.

    Examples:

      abq sweep grid.yaml --dry-run

      abq sweep grid.yaml --wait --json

      abq sweep grid.yaml --executor ray --ray-address 10.0.0.1:6379
    """
    if ray_address is not None and executor != "ray":
        raise ExecutorError(f"--ray-address {ray_address} requires --executor ray.")
    settings = Settings.from_environment()
    services = open_services(settings)
    planned = services.sweeps.plan(read_sweep(file))
    rows = [planned_row(one) for one in planned]
    left = sum(one.is_pending for one in planned)
    if dry_run:
        return Answer({"sweep": rows}, [planned_table(planned), planned_totals(planned)])
    if executor == "ray" and any(one.state != "succeeded" for one in planned):
        with _ray_cluster(ray_address, settings) as cluster:
            _check_cluster(cluster, planned)
            _name_runs(rows, services.sweeps.queue(planned, on_cluster=True))
            _bring_to_end_on(cluster, services, rows)
        return _ended(services, rows)
    _name_runs(rows, services.sweeps.queue(planned))
    if wait or executor == "ray":
        _bring_to_end(services, rows)
        return _ended(services, rows)
    from app.jobs.executors.local import start_detached

    if any(one.state != "succeeded" for one in planned):  # also for jobs that a killed worker left in the queue
        start_detached(settings)
    _read_states(services, rows)
    return Answer({"sweep": rows}, f"{left} of {len(rows)} calibrations were queued. See them with: abq jobs list")


def _bring_to_end(services: "Services", rows: list[dict[str, Any]]) -> None:
    """Run every unfinished job in this process, one after the other."""
    from app.jobs.foreground import bring_to_end

    for row in rows:
        job = services.jobs.get(row["run"])
        if job.state in ("queued", "running"):
            bring_to_end(services, job, f"{row['precision']} {row['method']}")


@contextlib.contextmanager
def _ray_cluster(address: str | None, settings: Settings) -> "Iterator[RayCluster]":
    """Connect to the cluster. Output of Ray goes to a log file."""
    if find_spec("ray") is None:
        raise ExecutorError(
            "--executor ray needs the package ray, which is not installed. Install it: pip install 'abq-explorer[ray]'."
        )
    from app.jobs.executors.local import open_log
    from app.jobs.executors.ray import RayCluster

    with open_log(settings.logs_dir / "ray.log") as file, io.TextIOWrapper(file, "utf-8", write_through=True) as log:
        with contextlib.redirect_stdout(log), RayCluster(address, settings.threads) as cluster:
            yield cluster


def _check_cluster(cluster: "RayCluster", planned: "Sequence[PlannedCalibration]") -> None:
    """Refuse a sweep that this cluster cannot run, before anything is queued.

    Raises ClusterError.
    """
    from app.jobs.executors.cluster import resources_for

    unfinished = [one for one in planned if one.state != "succeeded"]
    needs = [resources_for(one.spec, one.estimate.peak_memory_bytes, cluster.cpus) for one in unfinished]
    cluster.check([one.spec for one in unfinished], needs)


def _bring_to_end_on(cluster: "RayCluster", services: "Services", rows: list[dict[str, Any]]) -> None:
    """Run every unfinished job on the cluster, as many at a time as it has room for."""
    from app.jobs.executors.cluster import ClusterJobs
    from app.jobs.progress_line import ProgressLine
    from app.jobs.worker import stop_on_signals

    with ProgressLine() as line:

        def show(jobs: "Sequence[Job]") -> None:
            done = len(rows) - len(jobs) + sum(job.progress for job in jobs)
            names = [f"{job.spec['precision']} {job.spec['method']}" for job in jobs if job.state == "running"]
            message = f"running: {', '.join(names)}" if names else "waiting for room on the cluster"
            line.show(f"{len(rows) - len(jobs)} of {len(rows)}", done / len(rows), message, None)

        jobs = ClusterJobs(services, cluster, show)
        with stop_on_signals(jobs):
            jobs.bring_to_end([services.jobs.get(row["run"]).id for row in rows])


def _name_runs(rows: list[dict[str, Any]], runs: list[str]) -> None:
    for row, run in zip(rows, runs, strict=True):
        row["run"] = run


def _read_states(services: "Services", rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["state"] = services.runs.get(row["run"]).state


def _ended(services: "Services", rows: list[dict[str, Any]]) -> Answer:
    _read_states(services, rows)
    done = sum(row["state"] == "succeeded" for row in rows)
    text = f"{done} of {len(rows)} calibrations are done. See them with: abq runs list"
    return Answer({"sweep": rows}, text, 0 if done == len(rows) else FAILURE)
