"""The tables. A run owns its jobs, blocks and evaluations; a job owns its losses and log.

Deletes cascade.
A change here needs a revision in storage/migrations/versions; a test compares the two.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from storage.columns import JsonObject, UtcDateTime

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Base(DeclarativeBase):
    """The declarative base. Constraints are named, so later revisions can alter them."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, float: Double, dict[str, Any]: JsonObject}


class RunRow(Base):
    """One quantization of one model.

    Model, precision and method are copied from the spec for listing.
    account: the account that queued it on a page with a login, else NULL.
    """

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(Text)
    precision: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(index=True)
    note: Mapped[str] = mapped_column(Text, default="")
    account: Mapped[str | None] = mapped_column(Text)


class ExampleRow(Base):
    """One run that came with the program. The row outlives the run, so that a deleted example does not come back.

    hidden: the page does not list it.
    """

    __tablename__ = "examples"

    run_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    hidden: Mapped[bool] = mapped_column(default=False)


class JobRow(Base):
    """One job of a run.

    `number` is the order in the queue; `epoch` counts claims and identifies the owner.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint("(state IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("progress >= 0 AND progress <= 1", name="progress"),
        CheckConstraint("epoch >= 0 AND attempts >= 0 AND blocks_done >= 0", name="counts"),
        Index(None, "state", "number"),
        Index(None, "run_id", "number"),
        {"sqlite_autoincrement": True},
    )

    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(32))
    spec: Mapped[dict[str, Any]]
    state: Mapped[JobState] = mapped_column(String(16), default="queued")
    epoch: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    progress_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    blocks_done: Mapped[int] = mapped_column(default=0)
    blocks_total: Mapped[int | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(Text, default="")
    eta_seconds: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)


class BlockRow(Base):
    """One finished block of a run.

    sha256: of its file.  seconds: spent on it.  distances: to full precision.
    """

    __tablename__ = "blocks"
    __table_args__ = (CheckConstraint("block >= 0", name="block"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    block: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    distances: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime]


class LossRow(Base):
    """The loss terms of one step (an epoch over the data) of one block.

    A redone block overwrites its rows.
    """

    __tablename__ = "losses"
    __table_args__ = (CheckConstraint("block >= 0 AND step >= 0", name="position"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    block: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    terms: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime]


class LogRow(Base):
    """One line of a job's log."""

    __tablename__ = "job_log"
    __table_args__ = (Index(None, "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    text: Mapped[str] = mapped_column(Text)


class EvaluationRow(Base):
    """One evaluation or task score of a run, or of the full-precision model (run_id NULL)."""

    __tablename__ = "evaluations"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    model: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]
    values: Mapped[dict[str, Any]]


class ThroughputRow(Base):
    """One timing of a kernel or of decoding on a device."""

    __tablename__ = "throughput"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    device: Mapped[str] = mapped_column(Text)
    values: Mapped[dict[str, Any]]


class VoteRow(Base):
    """The result of one duel of two generated texts.

    visitor: account, or address without a login.  shown_left, shown_right: the contenders' names.
    """

    __tablename__ = "votes"
    __table_args__ = (
        CheckConstraint("winner IN ('left', 'right', 'equal')", name="winner"),
        CheckConstraint("shown_left <> shown_right", name="pair"),
        Index(None, "visitor", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    visitor: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(Text, index=True)
    shown_left: Mapped[str] = mapped_column(Text)
    shown_right: Mapped[str] = mapped_column(Text)
    winner: Mapped[Literal["left", "right", "equal"]] = mapped_column(String(8))
