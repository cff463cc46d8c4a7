"""The job queue: submit, claim under a lease, record progress, cancel, resume, requeue.

A claim increments the job's epoch. Every later write by that worker matches job id, epoch and state 'running' in its
UPDATE. If no row matches, another worker owns the job: the write raises LostLeaseError and changes nothing.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from storage.database import Database
from storage.errors import JobSpecError, JobStateError, QueueFullError
from storage.history import LogLine, LossRecord, add_log, read_log, read_losses
from storage.lifecycle import end_attempt, end_job, find_job, own_job, queue_again, set_progress
from storage.runs import BlockRecord, Runs
from storage.schema import BlockRow, ExampleRow, JobRow, JobState, LossRow, RunRow

LEASE = timedelta(seconds=30)
_OF_NO_EXAMPLE = JobRow.run_id.not_in(select(ExampleRow.run_id))
POSTGRESQL_QUEUE_LOCK = 0x414252  # advisory lock key; every process of an installation must use the same


@dataclass(frozen=True)
class Job:
    """A snapshot of a job.

    attempts: claims since the last new block.  heartbeat_at: last write by its worker.  progress_at: last write that
    recorded progress.  progress: 0..1.  error: why it failed, or why its last attempt ended.
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
    """The operations on jobs. Each method is one transaction; times are passed in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Called by the app

    def submit(
        self,
        spec: Mapping[str, Any],
        now: datetime,
        kind: str = "calibrate",
        account: str | None = None,
        max_queued: int | None = None,
    ) -> Job:
        """Create a run for this spec and queue the job that calibrates it.

        account: the account that asks for it on a page with a login.
        max_queued: refuse if this many jobs are queued, counted in the same transaction.
        Raises JobSpecError if model, precision or method is missing, UnstorableValueError, QueueFullError.
        """
        return self.submit_all([spec], now, kind, account, max_queued)[0]

    def submit_all(
        self,
        specs: Sequence[Mapping[str, Any]],
        now: datetime,
        kind: str = "calibrate",
        account: str | None = None,
        max_queued: int | None = None,
        resumed: Sequence[str] = (),
    ) -> Sequence[Job]:
        """Create a run and a job for each spec, or for none if one of them is refused. As `submit`.

        resumed: ids of ended jobs that are queued again in the same transaction, as by `resume`. Returns the new jobs.
        Also raises JobStateError, JobNotFoundError for one of them.
        """
        for spec in specs:
            missing = [name for name in ("model", "precision", "method") if not isinstance(spec.get(name), str)]
            if missing:
                raise JobSpecError(f"The spec lacks {', '.join(missing)} (as text): {dict(spec)}. Pass spec.to_dict().")
        with self._database.transaction() as session:
            _require_room(session, len(specs) + len(resumed), max_queued)
            for job_id in sorted(resumed):  # in one order: two transactions lock the same rows
                _resume(session, job_id, now)
            return [_job(_add_job(session, spec, now, kind, account)) for spec in specs]

    def get(self, job_id: str) -> Job:
        """The job with this id. Raises JobNotFoundError."""
        with self._database.reading() as session:
            return _job(find_job(session, job_id))

    def for_run(self, run_id: str) -> Job:
        """The newest job of this run. Raises RunNotFoundError."""
        return self.get(Runs(self._database).get(run_id).job_id)

    def list(self, state: JobState | None = None, limit: int = 100) -> Sequence[Job]:
        """At most `limit` jobs, newest first; with a state, only jobs in that state. Without those of examples."""
        query = select(JobRow).where(_OF_NO_EXAMPLE).order_by(JobRow.number.desc()).limit(limit)
        if state is not None:
            query = query.where(JobRow.state == state)
        with self._database.reading() as session:
            return [_job(row) for row in session.scalars(query)]

    def counts(self) -> dict[JobState, int]:
        """Number of jobs in each state, without those of examples. States without jobs are left out."""
        with self._database.reading() as session:
            rows = session.execute(select(JobRow.state, func.count()).where(_OF_NO_EXAMPLE).group_by(JobRow.state))
            return {state: count for state, count in rows}

    def logs(self, job_id: str, after: int = 0, limit: int = 1000) -> Sequence[LogLine]:
        """The job's log lines after the line with id `after`, in order. Raises JobNotFoundError."""
        with self._database.reading() as session:
            find_job(session, job_id)
            return read_log(session, job_id, after, limit)

    def losses(self, job_id: str) -> Sequence[LossRecord]:
        """The job's losses, ordered by block and step. Raises JobNotFoundError."""
        with self._database.reading() as session:
            find_job(session, job_id)
            return read_losses(session, job_id)

    def blocks(self, run_id: str) -> Sequence[BlockRecord]:
        """The run's finished blocks, in order. Raises RunNotFoundError."""
        return Runs(self._database).blocks(run_id)

    def request_cancel(self, job_id: str, now: datetime) -> Job:
        """Cancel a queued job at once; ask a running job to stop; leave an ended job unchanged.

        Raises JobNotFoundError.
        """
        with self._database.transaction() as session:
            job = find_job(session, job_id, lock=True)
            if job.state == "queued":
                end_job(job, "cancelled", now)
            elif job.state == "running":
                job.cancel_requested = True
            return _job(job)

    def resume(self, job_id: str, now: datetime, max_queued: int | None = None) -> Job:
        """Queue a failed or cancelled job again; its finished blocks are kept.

        Raises JobStateError in any other state, JobNotFoundError, QueueFullError.
        """
        with self._database.transaction() as session:
            _require_room(session, 1, max_queued)  # before the row is locked, as in `submit_all`
            return _job(_resume(session, job_id, now))

    def repair(self, job_id: str, now: datetime) -> Job:
        """Queue an ended job again, because files of its run are damaged; intact blocks are kept.

        Raises JobStateError if it is queued or running, JobNotFoundError.
        """
        with self._database.transaction() as session:
            job = find_job(session, job_id, lock=True)
            if job.state in ("queued", "running"):
                raise JobStateError(f"Job {job_id!r} is {job.state}. Only a job that has ended can be repaired.")
            _restart(session, job, now, "Repair: damaged files of the run are made again.")
            return _job(job)

    # Called by the worker that owns the job. All raise LostLeaseError if it no longer does.

    def claim_next(self, worker: str, now: datetime, lease: timedelta = LEASE, job_id: str | None = None) -> Job | None:
        """Claim the oldest queued job, or the named one if it is queued.

        None if there is nothing to claim.
        The new epoch fences out every earlier owner.
        """
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
        """Extend the lease. Returns whether a cancel was requested."""
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
        """Record progress (clamped to 0..1) with its message.

        blocks_total: None keeps the recorded number.
        """
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now, progress_at=now)
            set_progress(job, progress, message, eta_seconds)
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
        lease: timedelta = LEASE,
    ) -> None:
        """Record a block whose file is already on disk, and extend the lease.

        sha256: of the file.  seconds: spent on the block.  distances: to full precision, by name.
        Idempotent. A redone block (another sha256) replaces the record and does not count as a new block.
        """
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

    def record_losses(
        self, job_id: str, epoch: int, now: datetime, block: int, step: int, losses: Mapping[str, float]
    ) -> None:
        """Record the loss terms of one step (an epoch over the data) of a block.

        A redone block overwrites them.
        """
        with self._database.transaction() as session:
            own_job(session, job_id, epoch, now, progress_at=now)
            session.merge(LossRow(job_id=job_id, block=block, step=step, terms=dict(losses), recorded_at=now))

    def log(self, job_id: str, epoch: int, now: datetime, text: str) -> None:
        """Add a line to the job's log."""
        with self._database.transaction() as session:
            add_log(session, own_job(session, job_id, epoch, now), now, text)

    def finish(self, job_id: str, epoch: int, now: datetime) -> Job:
        """End the job as succeeded. A cancel that arrives too late has no effect."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now, progress_at=now, progress=1.0)
            end_job(job, "succeeded", now)
            return _job(job)

    def fail(self, job_id: str, epoch: int, now: datetime, error: str) -> Job:
        """End the job as failed, with a sentence that says why. It can be resumed."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now)
            add_log(session, job, now, error)
            end_job(job, "failed", now, error)
            return _job(job)

    def release(self, job_id: str, epoch: int, now: datetime, reason: str) -> Job:
        """Give the job back before its end: it is queued again and the attempt does not count."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now)
            job.attempts = max(0, job.attempts - 1)
            end_attempt(session, job, now, reason)
            return _job(job)

    def end_cancelled(self, job_id: str, epoch: int, now: datetime) -> Job:
        """End the job as cancelled."""
        with self._database.transaction() as session:
            job = own_job(session, job_id, epoch, now)
            end_job(job, "cancelled", now)
            return _job(job)

    # Called by supervisors

    def requeue_expired(self, now: datetime) -> Sequence[Job]:
        """End the attempt of every running job whose lease has expired.

        Each is queued again; cancelled if that was requested; failed after 3 attempts without a new block.
        Returns the changed jobs.
        """
        return self._take_back(now, "stopped answering", JobRow.lease_until < now)

    def requeue_worker(self, worker: str, now: datetime) -> Sequence[Job]:
        """Do the same for every running job of a worker that has exited."""
        return self._take_back(now, "exited", JobRow.worker == worker)

    def _take_back(self, now: datetime, what: str, which: ColumnElement[bool]) -> Sequence[Job]:
        found = (JobRow.state == "running", which)
        with self._database.reading() as session:  # called twice a second: check without the write lock
            if session.scalar(select(JobRow.number).where(*found).limit(1)) is None:
                return []
        with self._database.transaction() as session:
            jobs = session.scalars(select(JobRow).where(*found).order_by(JobRow.number).with_for_update()).all()
            for job in jobs:
                end_attempt(session, job, now, f"Its worker {job.worker} {what}.")
            session.flush()
            return [_job(job) for job in jobs]


def _add_job(session: Session, spec: Mapping[str, Any], now: datetime, kind: str, account: str | None) -> JobRow:
    run = RunRow(
        id=_new_id("r"),
        model=spec["model"],
        precision=spec["precision"],
        method=spec["method"],
        spec=dict(spec),
        created_at=now,
        account=account,
    )
    session.add(run)
    session.flush()
    job = JobRow(id=_new_id("j"), run_id=run.id, kind=kind, spec=dict(spec), created_at=now)
    session.add(job)
    session.flush()
    return job


def _resume(session: Session, job_id: str, now: datetime) -> JobRow:
    job = find_job(session, job_id, lock=True)
    if job.state not in ("failed", "cancelled"):
        raise JobStateError(f"Job {job_id!r} is {job.state}. Only a failed or cancelled job can be resumed.")
    _restart(session, job, now, "Resumed: calibration continues after the last finished block.")
    return job


def _restart(session: Session, job: JobRow, now: datetime, why: str) -> None:
    """Queue an ended job again as if it had not been tried yet."""
    queue_again(job)
    job.attempts, job.error = 0, None
    add_log(session, job, now, why)


def _require_room(session: Session, new: int, max_queued: int | None) -> None:
    """Refuse `new` jobs if more than `max_queued` would be queued then. Raises QueueFullError.

    On SQLite the transaction holds the write lock. On PostgreSQL it takes an advisory lock, so that the transactions
    that count before they add a job run one after the other.
    """
    if max_queued is None:
        return
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(POSTGRESQL_QUEUE_LOCK)))
    queued = session.scalar(select(func.count()).where(JobRow.state == "queued")) or 0
    if queued + new > max_queued:
        raise QueueFullError(queued, new, max_queued)


def _new_id(letter: str) -> str:
    return f"{letter}-{secrets.token_hex(5)}"


def _job(row: JobRow) -> Job:
    return Job(**{name: getattr(row, name) for name in Job.__dataclass_fields__})
