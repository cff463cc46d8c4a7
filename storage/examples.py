"""Examples: finished runs that came with the program, added to a new database once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Integer, cast, func, select, update
from sqlalchemy.orm import Session

from storage.database import Database
from storage.history import LossRecord, add_log
from storage.measurements import BASELINE
from storage.runs import BlockRecord
from storage.schema import BlockRow, EvaluationRow, ExampleRow, JobRow, LossRow, RunRow


@dataclass(frozen=True)
class Example:
    """The rows of one example.

    run_id: the same in every installation.  started_at, finished_at: of its job, when it was made.  log: one line.
    evaluation: of the run.  baseline: of its model at full precision, on the same text.
    """

    run_id: str
    spec: Mapping[str, Any]
    started_at: datetime
    finished_at: datetime
    log: str
    blocks: Sequence[BlockRecord]
    losses: Sequence[LossRecord]
    evaluation: Mapping[str, Any]
    baseline: Mapping[str, Any]


class ExampleCounts(NamedTuple):
    """The number of examples that were not deleted, and how many of them are hidden."""

    left: int
    hidden: int


class Examples:
    """The operations on examples. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def are_expected(self) -> bool:
        """True if this database has no run and never had an example."""
        with self._database.reading() as session:
            return session.scalar(select(RunRow.id).limit(1)) is None and not _had_examples(session)

    def add_all(self, examples: Sequence[Example]) -> bool:
        """Add all examples, or none and return False if this database had examples before."""
        with self._database.transaction() as session:
            if _had_examples(session):
                return False
            for example in examples:
                _add(session, example)
            return True

    def hide(self, hidden: bool) -> None:
        """Hide all examples from the page, or show them again."""
        with self._database.transaction() as session:
            session.execute(update(ExampleRow).values(hidden=hidden))

    def counts(self) -> ExampleCounts:
        """How many examples are left, and how many of them are hidden."""
        query = select(func.count(), func.coalesce(func.sum(cast(ExampleRow.hidden, Integer)), 0))
        with self._database.reading() as session:
            left, hidden = session.execute(query.join_from(ExampleRow, RunRow, RunRow.id == ExampleRow.run_id)).one()
            return ExampleCounts(left, hidden)


def _had_examples(session: Session) -> bool:
    return session.scalar(select(ExampleRow.run_id).limit(1)) is not None


def _add(session: Session, example: Example) -> None:
    """Add the rows of one example: a run with a finished job that no queue lists."""
    spec, made = dict(example.spec), example.finished_at
    names = {name: spec[name] for name in ("model", "precision", "method")}
    session.add_all([RunRow(id=example.run_id, **names, spec=spec, created_at=made), ExampleRow(run_id=example.run_id)])
    session.flush()
    job = JobRow(
        id=f"j-{example.run_id.removeprefix('r-')}",
        run_id=example.run_id,
        kind="calibrate",
        spec=spec,
        state="succeeded",
        created_at=example.started_at,
        started_at=example.started_at,
        finished_at=made,
        blocks_done=len(example.blocks),
        blocks_total=len(example.blocks),
        progress=1.0,
    )
    session.add(job)
    session.flush()
    add_log(session, job, made, example.log)
    session.add_all(BlockRow(run_id=example.run_id, **vars(block)) for block in example.blocks)
    session.add_all(LossRow(job_id=job.id, **vars(loss)) for loss in example.losses)
    baseline = {**example.baseline, "kind": BASELINE}
    for values in (dict(example.evaluation), baseline):
        session.add(EvaluationRow(run_id=example.run_id, model=names["model"], created_at=made, values=values))
