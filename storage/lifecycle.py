"""State transitions of a job's row, inside the caller's transaction.

`storage.jobs` decides when they happen.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.errors import JobNotFoundError, LostLeaseError
from storage.history import add_log
from storage.schema import JobRow, JobState

MAX_ATTEMPTS = 3


def find_job(session: Session, job_id: str, lock: bool = False) -> JobRow:
    """The job's row. lock: lock the row, because the caller changes it. Raises JobNotFoundError."""
    query = select(JobRow).where(JobRow.id == job_id)
    job = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if job is None:
        raise JobNotFoundError(job_id)
    return job


def own_job(session: Session, job_id: str, epoch: int, now: datetime, **values: Any) -> JobRow:
    """Update and lock the job's row on behalf of its owner.

    The first write of every worker's transaction.
    Raises LostLeaseError unless the job is running in this epoch.
    """
    write = (
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.epoch == epoch, JobRow.state == "running")
        .values(heartbeat_at=now, **values)
        .returning(JobRow)
        .execution_options(synchronize_session=False)
    )
    job = session.scalars(write).one_or_none()
    if job is None:
        raise LostLeaseError(job_id, epoch)
    return job


def set_progress(job: JobRow, progress: float, message: str, eta_seconds: float | None) -> None:
    """Set the progress that the dashboard shows, clamped to 0..1."""
    job.progress, job.message, job.eta_seconds = min(1.0, max(0.0, progress)), message, eta_seconds


def end_job(job: JobRow, state: JobState, now: datetime, error: str | None = None) -> None:
    """Set a final state. The job can still be resumed."""
    job.state, job.finished_at, job.lease_until, job.eta_seconds = state, now, None, None
    job.cancel_requested = False
    job.error = error


def queue_again(job: JobRow) -> None:
    """Queue the job for its next claim. It keeps its number, and so its place in the queue."""
    job.state, job.worker, job.lease_until, job.finished_at, job.eta_seconds = "queued", None, None, None, None
    job.cancel_requested = False


def end_attempt(session: Session, job: JobRow, now: datetime, error: str) -> None:
    """End an attempt without a result.

    Cancelled if requested, failed after MAX_ATTEMPTS, else queued again.
    """
    if job.cancel_requested:
        end_job(job, "cancelled", now)
        add_log(session, job, now, f"{error} A cancel was requested: the job is cancelled.")
    elif job.attempts >= MAX_ATTEMPTS:
        error = f"{error} It was tried {job.attempts} times without finishing a new block. See its log, then resume it."
        end_job(job, "failed", now, error)
        add_log(session, job, now, error)
    else:
        queue_again(job)
        job.error = error
        add_log(session, job, now, f"{error} The job is queued again.")
