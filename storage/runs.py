"""Runs: the results of jobs, as rows. The app keeps their files, one folder per run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from storage.database import Database
from storage.errors import RunBusyError, RunNotFoundError
from storage.schema import BlockRow, ExampleRow, JobRow, JobState, RunRow


@dataclass(frozen=True)
class Run:
    """A snapshot of a run. State, finish time and block counts are those of its newest job.

    account: the account that queued it on a page with a login, else None.
    example: it came with the program.  hidden: it is an example that the page does not list.
    """

    id: str
    model: str
    precision: str
    method: str
    spec: dict[str, Any]
    created_at: datetime
    note: str
    account: str | None
    example: bool
    hidden: bool
    job_id: str
    state: JobState
    finished_at: datetime | None
    blocks_done: int
    blocks_total: int | None


@dataclass(frozen=True)
class BlockRecord:
    """A finished block.

    sha256: of its file.  seconds: spent on it.  distances: to full precision, by name.
    """

    block: int
    sha256: str
    seconds: float
    distances: dict[str, float]
    recorded_at: datetime


class Runs:
    """The operations on runs. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, run_id: str) -> Run:
        """The run with this id. Raises RunNotFoundError."""
        with self._database.reading() as session:
            return _find(session, run_id)

    def list(self, state: JobState | None = None, limit: int | None = None, *, examples: bool = True) -> Sequence[Run]:
        """Runs, newest first; with a state, only runs in that state.

        examples: False leaves out those that came with the program.
        """
        where = [] if state is None else [JobRow.state == state]
        where += [] if examples else [ExampleRow.run_id.is_(None)]
        with self._database.reading() as session:
            return _select(session, *where, limit=limit)

    def blocks(self, run_id: str) -> Sequence[BlockRecord]:
        """The run's finished blocks, in order. Raises RunNotFoundError."""
        query = select(BlockRow).where(BlockRow.run_id == run_id).order_by(BlockRow.block)
        with self._database.reading() as session:
            _row(session, run_id)
            return [
                BlockRecord(row.block, row.sha256, row.seconds, row.distances, row.recorded_at)
                for row in session.scalars(query)
            ]

    def set_note(self, run_id: str, note: str) -> Run:
        """Replace the run's note. Raises RunNotFoundError."""
        with self._database.transaction() as session:
            _row(session, run_id).note = note
            session.flush()
            return _find(session, run_id)

    def delete(self, run_id: str) -> None:
        """Delete the run's rows: jobs, blocks, losses, log, evaluations.

        The caller deletes its folder.
        Raises RunNotFoundError; RunBusyError while one of its jobs is running.
        """
        with self._database.transaction() as session:
            run = _row(session, run_id)
            jobs = session.scalars(select(JobRow).where(JobRow.run_id == run_id).with_for_update())
            running = [job.id for job in jobs if job.state == "running"]
            if running:
                raise RunBusyError(f"Job {running[0]!r} of run {run_id!r} is running. Cancel it, then delete the run.")
            session.delete(run)


def _select(session: Session, *where: ColumnElement[bool], limit: int | None = None) -> list[Run]:
    """Runs, newest first, each with its newest job.

    `submit` creates both, so every run has a job.
    """
    other = aliased(JobRow)
    newest = select(func.max(other.number)).where(other.run_id == RunRow.id).correlate(RunRow).scalar_subquery()
    query = select(RunRow, JobRow, ExampleRow).select_from(RunRow).join(JobRow, JobRow.number == newest)
    query = query.outerjoin(ExampleRow, ExampleRow.run_id == RunRow.id).where(*where)
    query = query.order_by(RunRow.created_at.desc(), JobRow.number.desc()).limit(limit)
    return [_run(run, job, example) for run, job, example in session.execute(query)]


def _find(session: Session, run_id: str) -> Run:
    runs = _select(session, RunRow.id == run_id)
    if not runs:
        raise RunNotFoundError(run_id)
    return runs[0]


def _row(session: Session, run_id: str) -> RunRow:
    run = session.get(RunRow, run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    return run


def _run(run: RunRow, job: JobRow, example: ExampleRow | None) -> Run:
    return Run(
        id=run.id,
        model=run.model,
        precision=run.precision,
        method=run.method,
        spec=run.spec,
        created_at=run.created_at,
        note=run.note,
        account=run.account,
        example=example is not None,
        hidden=example is not None and example.hidden,
        job_id=job.id,
        state=job.state,
        finished_at=job.finished_at,
        blocks_done=job.blocks_done,
        blocks_total=job.blocks_total,
    )
