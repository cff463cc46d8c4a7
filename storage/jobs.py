"""The job queue: submitted, claimed under a lease, worked on, cancelled, resumed. What workers write is in here too.

A claim raises the job's epoch. Every later write of that worker names job, epoch and the state 'running' in its UPDATE;
where no row matches, the job belongs to someone else, and the write raises LostLeaseError and leaves nothing.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select, update

from storage.database import Database
from storage.errors import JobSpecError, JobStateError
from storage.history import LogLine, LossRecord, add_log, read_log, read_losses
from storage.lifecycle import end_attempt, find_job, own_job, queue_again, settle, show
from storage.runs import BlockRecord, Runs
from storage.schema import BlockRow, JobRow, JobState, LossRow, RunRow

LEASE = timedelta(seconds=30)


@dataclass(frozen=True)
class Job:
    """A job as it was when it was read.

    attempts: claims since the last new block. heartbeat_at: when its worker last wrote anything; progress_at: when it
    last got further. progress: 0..1. error: why it failed, or why its last attempt ended.
    """

    number: int
    id: str
    run_id: str
    kind: str
    spec: dict[str, Any]
    state: JobState
    epoch: int
    worker: str | None
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    heartbeat_at: datetime | None
    progress_at: datetime | None
    lease_until: datetime | None
    cancel_requested: bool
    blocks_done: int
    blocks_total: int | None
    progress: float
    message: str
    eta_seconds: float | None
    error: str | None


class Jobs:
    """All that is done with jobs: one method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # What the app asks

    def submit(self, spec: Mapping[str, Any], now: datetime, kind: str = "calibrate") -> Job:
        """Create a run for this spec, and the job that is to make it. Raises JobSpecError."""
        missing = [name for name in ("model", "precision", "method") if not isinstance(spec.get(name), str)]
        if missing:
            raise JobSpecError(f"The spec has no text for {', '.join(missing)}: {dict(spec)}. Pass spec.to_dict().")
        run = RunRow(
            id=_new_id("r"),
            model=spec["model"],
            precision=spec["precision"],
            method=spec["method"],
            spec=dict(spec),
            created_at=now,
        )
        job = JobRow(id=_new_id("j"), run_id=run.id, kind=kind, spec=dict(spec), created_at=now)
        with self._database.transaction() as session:
            session.add(run)
            session.flush()
            session.add(job)
            session.flush()
            return _job(job)

    def get(self, job_id: str) -> Job:
        """The job with this id. Raises JobNotFoundError."""
        with self._database.reading() as session:
            return _job(find_job(session, job_id))

    def for_run(self, run_id: str) -> Job:
        """The newest job of this run. Raises RunNotFoundError."""
        return self.get(Runs(self._database).get(run_id).job_id)

    def list(self, state: JobState | None = None, limit: int = 100) -> Sequence[Job]:
        """The newest jobs, newest first; with a state, only those."""
        query = select(JobRow).order_by(JobRow.number.desc()).limit(limit)
        if state is not None:
            query = query.where(JobRow.state == state)
        with self._database.reading() as session:
            return [_job(row) for row in session.scalars(query)]

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state that has any."""
        with self._database.reading() as session:
            rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            return {state: count for state, count in rows}

    def logs(self, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[LogLine]:
        """The job's log in order, after the line with this id. Raises JobNotFoundError."""
        with self._database.reading() as session:
            find_job(session, job_id)
            return read_log(session, job_id, after, limit)

    def losses(self, job_id: str) -> Sequence[LossRecord]:
        """The job's losses by block and step. Raises JobNotFoundError."""
        with self._database.reading() as session:
            find_job(session, job_id)
            return read_losses(session, job_id)

    def blocks(self, run_id: str) -> Sequence[BlockRecord]:
        """The run's finished blocks in order. Raises RunNotFoundError."""
        return Runs(self._database).blocks(run_id)

    def request_cancel(self, job_id: str, now: datetime) -> Job:
        """Cancel a queued job at once and ask a running one to stop; one that has ended stays as it is."""
        with self._database.transaction() as session:
            job = find_job(session, job_id, lock=True)
            if job.state == "queued":
                settle(job, "cancelled", now)
            elif job.state == "running":
                job.cancel_requested = True
            return _job(job)

    def resume(self, job_id: str, now: datetime) -> Job:
        """Queue a failed or cancelled job again, keeping its finished blocks. Raises JobStateError for others."""
        with self._database.transaction() as session:
            job = find_job(session, job_id, lock=True)
            if job.state not in ("failed", "cancelled"):
                raise JobStateError(f"Job {job_id!r} is {job.state}. Only a failed or cancelled job can be resumed.")
            queue_again(job)
            job.attempts, job.error = 0, None
            add_log(session, job, now, "Resumed: it goes on after its last finished block.")
            return _job(job)

    # What a worker writes

    def claim_next(self, worker: str, now: datetime, lease: timedelta = LEASE, job_id: str | None = None) -> Job | None:
        """Take the oldest queued job (or this one, if queued), or None. The new epoch shuts out earlier owners."""
        oldest = select(JobRow.number).where(JobRow.state == "queued").order_by(JobRow.number).limit(1)
        if job_id is not None:
            oldest = oldest.where(JobRow.id == job_id)
        claim = (
            update(JobRow)
            .where(JobRow.number == oldest.with_for_update(skip_locked=True).scalar_subquery())
            .where(JobRow.state == "queued")
            .values(
                state="running",
                epoch=JobRow.epoch + 1,
                attempts=JobRow.attempts + 1,
                worker=worker,
                started_at=func.coalesce(JobRow.started_at, now),
                heartbeat_at=now,
                progress_at=now,
                lease_until=now + lease,
            )
            .returning(JobRow)
            .execution_options(synchronize_session=False)
        )
        with self._database.transaction() as session:
            job = session.scalars(claim).one_or_none()
            return None if job is None else _job(job)

    def heartbeat(self, job_id: str, epoch: int, now: datetime, lease: timedelta = LEASE) -> bool:
        """Hold the job for another lease. True where its cancel was requested."""
        with self._database.transaction() as session:
            return own_job(session, job_id, epoch, now, lease_until=now + lease).cancel_requested

    def progress(
        self,
        job_id: str,
        epoch: int,
        now: datetime,
        progress: float,
        message: str,
        eta_seconds: float | None = None,
        blocks_total: int | None = None,
    ) -> None:
        """Record how far the job is. progress is clamped to 0..1; blocks_total is kept once it is given."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now, progress_at=now)
            show(job, progress, message, eta_seconds)
            job.blocks_total = job.blocks_total if blocks_total is None else blocks_total

    def record_block(
        self,
        job_id: str,
        epoch: int,
        now: datetime,
        block: int,
        sha256: str,
        seconds: float,
        distances: Mapping[str, float],
        *,
        progress: float | None = None,
        message: str | None = None,
        eta_seconds: float | None = None,
        lease: timedelta = LEASE,
    ) -> None:
        """Record a block whose file is safely on disk, with lease and progress. Call it again and nothing changes;
        a block that was redone (another sha256) replaces its record, and does not count as a new one."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now, progress_at=now)
            job.lease_until = max(job.lease_until or now, now + lease)
            row = session.get(BlockRow, (job.run_id, block))
            if row is None:
                row = BlockRow(run_id=job.run_id, block=block, sha256="")
                session.add(row)
                job.attempts = 0
                job.blocks_done += 1
            if row.sha256 != sha256:
                row.sha256, row.seconds, row.distances, row.recorded_at = sha256, seconds, dict(distances), now
            if progress is not None:
                show(job, progress, job.message if message is None else message, eta_seconds)

    def record_losses(
        self, job_id: str, epoch: int, now: datetime, block: int, step: int, losses: Mapping[str, float]
    ) -> None:
        """Record the loss terms of one step (an epoch over the data) of a block; a redone block overwrites them."""
        with self._database.transaction() as session:
            own_job(session, job_id, epoch, now, progress_at=now)
            session.merge(LossRow(job_id=job_id, block=block, step=step, terms=dict(losses), recorded_at=now))

    def log(self, job_id: str, epoch: int, now: datetime, text: str) -> None:
        """Add a line to the job's log."""
        with self._database.transaction() as session:
            add_log(session, own_job(session, job_id, epoch, now), now, text)

    def finish(self, job_id: str, epoch: int, now: datetime) -> Job:
        """The job succeeded; a cancel that came too late is forgotten."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now, progress_at=now, progress=1.0)
            settle(job, "succeeded", now)
            return _job(job)

    def fail(self, job_id: str, epoch: int, now: datetime, error: str) -> Job:
        """The job cannot go on, until someone resumes it."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now)
            add_log(session, job, now, error)
            settle(job, "failed", now, error)
            return _job(job)

    def release(self, job_id: str, epoch: int, now: datetime, reason: str) -> Job:
        """The worker gives the job back in good order: queued again, and the attempt does not count."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now)
            job.attempts = max(0, job.attempts - 1)
            end_attempt(session, job, now, reason)
            return _job(job)

    def end_cancelled(self, job_id: str, epoch: int, now: datetime) -> Job:
        """The worker stopped because it was asked to."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now)
            settle(job, "cancelled", now)
            return _job(job)

    # What a supervisor does

    def requeue_expired(self, now: datetime) -> Sequence[Job]:
        """Take running jobs whose lease is over from their workers: queued again, cancelled where that was asked for,
        failed after 3 attempts without a new block. Returns them as they are now."""
        return self._take_back(now, "stopped answering", JobRow.lease_until < now)

    def requeue_worker(self, worker: str, now: datetime) -> Sequence[Job]:
        """The same for all jobs of a worker that is known to have exited."""
        return self._take_back(now, "exited", JobRow.worker == worker)

    def _take_back(self, now: datetime, what: str, which: ColumnElement[bool]) -> Sequence[Job]:
        found = (JobRow.state == "running", which)
        with self._database.reading() as session:  # asked twice a second: a look takes no lock
            if session.scalar(select(JobRow.number).where(*found).limit(1)) is None:
                return []
        with self._database.transaction() as session:
            jobs = session.scalars(select(JobRow).where(*found).order_by(JobRow.number).with_for_update()).all()
            for job in jobs:
                end_attempt(session, job, now, f"Its worker {job.worker} {what}.")
            session.flush()
            return [_job(job) for job in jobs]


def _new_id(letter: str) -> str:
    return f"{letter}-{secrets.token_hex(5)}"


def _job(row: JobRow) -> Job:
    return Job(**{name: getattr(row, name) for name in Job.__dataclass_fields__})
