"""Measurements: evaluations of runs and models, what tasks gave for them, and timings of this machine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ColumnElement, select, type_coerce

from storage.database import Database
from storage.errors import RunNotFoundError
from storage.schema import EvaluationRow, RunRow, ThroughputRow

_KIND = type_coerce(EvaluationRow.values, JSON)["kind"].as_string()  # None: perplexity and distances


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation; run_id is None where a model was evaluated as it is. values: perplexity, kl_mean and the like, or
    what one task gave.
    """

    id: int
    run_id: str | None
    model: str
    created_at: datetime
    values: dict[str, Any]


@dataclass(frozen=True)
class ThroughputRecord:
    """One timing on one device. values: precision, shape, engine, median_us and the like."""

    id: int
    created_at: datetime
    device: str
    values: dict[str, Any]


class Measurements:
    """All that is done with measurements: one method, one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_evaluation(
        self, run_id: str | None, model: str, now: datetime, values: Mapping[str, Any]
    ) -> EvaluationRecord:
        """Keep an evaluation of a run, or of a model as it is. Raises RunNotFoundError."""
        return self._add(run_id, model, now, dict(values))

    def evaluations(self, run_id: str | None = None, limit: int | None = None) -> Sequence[EvaluationRecord]:
        """The evaluations, newest first: all of them, or those of one run."""
        return self._list(_KIND.is_(None), run_id, limit)

    def add_task_score(
        self, run_id: str | None, model: str, now: datetime, values: Mapping[str, Any]
    ) -> EvaluationRecord:
        """Keep what a task gave for a run, or for a model as it is. Raises RunNotFoundError."""
        return self._add(run_id, model, now, {**values, "kind": "task"})

    def task_scores(self, run_id: str | None = None, limit: int | None = None) -> Sequence[EvaluationRecord]:
        """The scores of tasks, newest first: all of them, or those of one run."""
        return self._list(_KIND == "task", run_id, limit)

    def _add(self, run_id: str | None, model: str, now: datetime, values: dict[str, Any]) -> EvaluationRecord:
        with self._database.transaction() as session:
            if run_id is not None and session.get(RunRow, run_id) is None:
                raise RunNotFoundError(run_id)
            row = EvaluationRow(run_id=run_id, model=model, created_at=now, values=values)
            session.add(row)
            session.flush()
            return _evaluation(row)

    def _list(self, which: ColumnElement[bool], run_id: str | None, limit: int | None) -> Sequence[EvaluationRecord]:
        query = select(EvaluationRow).where(which).order_by(EvaluationRow.id.desc()).limit(limit)
        if run_id is not None:
            query = query.where(EvaluationRow.run_id == run_id)
        with self._database.reading() as session:
            return [_evaluation(row) for row in session.scalars(query)]

    def add_throughput(self, now: datetime, device: str, values: Mapping[str, Any]) -> ThroughputRecord:
        """Keep a timing."""
        with self._database.transaction() as session:
            row = ThroughputRow(created_at=now, device=device, values=dict(values))
            session.add(row)
            session.flush()
            return _throughput(row)

    def add_timings(self, timings: Iterable[tuple[datetime, str, Mapping[str, Any]]]) -> None:
        """Keep timings of other machines: when, on what device, the values. All of them or none."""
        with self._database.transaction() as session:
            session.add_all(ThroughputRow(created_at=at, device=on, values=dict(values)) for at, on, values in timings)

    def throughput(self, limit: int = 500) -> Sequence[ThroughputRecord]:
        """The newest timings, newest first."""
        query = select(ThroughputRow).order_by(ThroughputRow.id.desc()).limit(limit)
        with self._database.reading() as session:
            return [_throughput(row) for row in session.scalars(query)]


def _evaluation(row: EvaluationRow) -> EvaluationRecord:
    return EvaluationRecord(row.id, row.run_id, row.model, row.created_at, row.values)


def _throughput(row: ThroughputRow) -> ThroughputRecord:
    return ThroughputRecord(row.id, row.created_at, row.device, row.values)
