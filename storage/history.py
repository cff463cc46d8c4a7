"""A job's log lines and losses, read and written inside the caller's transaction."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage.schema import JobRow, LogRow, LossRow


@dataclass(frozen=True)
class LogLine:
    """One line of a job's log. Pass its id to `Jobs.logs(after=...)` to read what follows."""

    id: int
    at: datetime
    text: str


@dataclass(frozen=True)
class LossRecord:
    """The loss terms of one step (an epoch over the data) of one block."""

    block: int
    step: int
    terms: dict[str, float]
    recorded_at: datetime


def add_log(session: Session, job: JobRow, now: datetime, text: str) -> None:
    """Add a line to the job's log."""
    session.add(LogRow(job_id=job.id, at=now, text=text))


def read_log(session: Session, job_id: str, after: int, limit: int) -> list[LogLine]:
    """The job's lines after the line with id `after`, in order, at most `limit`."""
    query = select(LogRow).where(LogRow.job_id == job_id, LogRow.id > after).order_by(LogRow.id).limit(limit)
    return [LogLine(row.id, row.at, row.text) for row in session.scalars(query)]


def read_losses(session: Session, job_id: str) -> list[LossRecord]:
    """All losses of the job, ordered by block and step."""
    query = select(LossRow).where(LossRow.job_id == job_id).order_by(LossRow.block, LossRow.step)
    return [LossRecord(row.block, row.step, row.terms, row.recorded_at) for row in session.scalars(query)]
