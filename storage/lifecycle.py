"""How a job's row goes from state to state, inside the caller's transaction. `storage.jobs` decides when."""

from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from storage.errors import JobNotFoundError, LostLeaseError
from storage.history import add_log
from storage.schema import JobRow, JobState

MAX_ATTEMPTS = 3


def find_job(session: Session, job_id: str, lock: bool = False) -> JobRow:
    """The job's row, locked where it is going to be changed. Raises JobNotFoundError."""
    query = select(JobRow).where(JobRow.id == job_id)
    job = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if job is None:
        raise JobNotFoundError(job_id)
    return job


def own_job(session: Session, job_id: str, epoch: int, now: datetime, **values: Any) -> JobRow:
    """The first write of every worker's transaction: it succeeds only for the present owner, and locks the row."""
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


def show(job: JobRow, progress: float, message: str, eta_seconds: float | None) -> None:
    """Set what the page shows of the job's progress."""
    job.progress, job.message, job.eta_seconds = min(1.0, max(0.0, progress)), message, eta_seconds


def settle(job: JobRow, state: JobState, now: datetime, error: str | None = None) -> None:
    """The job has ended, until someone resumes it."""
    job.state, job.finished_at, job.lease_until, job.eta_seconds = state, now, None, None
    job.cancel_requested = False
    job.error = error


def queue_again(job: JobRow) -> None:
    """The job waits for its next claim; it keeps its number, and with it its place."""
    job.state, job.worker, job.lease_until, job.finished_at, job.eta_seconds = "queued", None, None, None, None
    job.cancel_requested = False


def end_attempt(session: Session, job: JobRow, now: datetime, error: str) -> None:
    """An attempt is over without a result, and the job's state says what follows."""
    if job.cancel_requested:
        settle(job, "cancelled", now)
        add_log(session, job, now, f"{error} Its cancel had been requested: cancelled.")
    elif job.attempts >= MAX_ATTEMPTS:
        error = (
            f"{error} It was tried {job.attempts} times without finishing a new block; look at its log, then resume it."
        )
        settle(job, "failed", now, error)
        add_log(session, job, now, error)
    else:
        queue_again(job)
        job.error = error
        add_log(session, job, now, f"{error} The job is queued again.")
