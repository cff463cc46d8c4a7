"""Measurements: evaluations and task scores of runs and models, and timings of devices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ColumnElement, and_, or_, select, type_coerce

from storage.database import Database
from storage.errors import RunNotFoundError
from storage.schema import EvaluationRow, ExampleRow, RunRow, ThroughputRow

BASELINE = "baseline"
_KIND = type_coerce(EvaluationRow.values, JSON)["kind"].as_string()  # None: perplexity and distances


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation or task score. run_id is None for the model at full precision.

    values: perplexity, kl_mean and others, or the metrics of one task.
    """

    id: int
    run_id: str | None
    model: str
    created_at: datetime
    values: dict[str, Any]


@dataclass(frozen=True)
class ThroughputRecord:
    """One timing on one device. values: precision, shape, engine, median_us and others."""

    id: int
    created_at: datetime
    device: str
    values: dict[str, Any]


class Measurements:
    """The operations on measurements. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_evaluation(
        self, run_id: str | None, model: str, now: datetime, values: Mapping[str, Any]
    ) -> EvaluationRecord:
        """Record an evaluation of a run, or of the full-precision model (run_id None).

        Raises RunNotFoundError.
        """
        return self._add(run_id, model, now, dict(values))

    def evaluations(
        self,
        run_id: str | None = None,
        limit: int | None = None,
        *,
        examples: bool = True,
        model: str | None = None,
    ) -> Sequence[EvaluationRecord]:
        """Evaluations, newest first: all, or those of one run, or those of one model and its runs.

        examples: False leaves out those of runs that came with the program.
        """
        here = or_(EvaluationRow.run_id.is_(None), EvaluationRow.run_id.not_in(select(ExampleRow.run_id)))
        kinds = [_KIND.is_(None), *([] if examples else [here])]
        kinds += [] if model is None else [EvaluationRow.model == model]
        return self._list(and_(*kinds), run_id, limit)

    def add_task_score(
        self, run_id: str | None, model: str, now: datetime, values: Mapping[str, Any]
    ) -> EvaluationRecord:
        """Record a task score of a run, or of the full-precision model (run_id None).

        Raises RunNotFoundError.
        """
        return self._add(run_id, model, now, {**values, "kind": "task"})

    def example_baselines(self) -> Sequence[EvaluationRecord]:
        """Evaluations of full-precision models that came with visible examples, newest first.

        run_id: of the example. `evaluations` leaves them out: they were not measured by this installation.
        """
        visible = select(ExampleRow.run_id).where(ExampleRow.hidden.is_(False))
        return self._list(and_(_KIND == BASELINE, EvaluationRow.run_id.in_(visible)), None, None)

    def task_scores(self, run_id: str | None = None, limit: int | None = None) -> Sequence[EvaluationRecord]:
        """Task scores, newest first: all, or those of one run."""
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
        """Record a timing of this machine."""
        with self._database.transaction() as session:
            row = ThroughputRow(created_at=now, device=device, values=dict(values))
            session.add(row)
            session.flush()
            return _throughput(row)

    def add_timings(self, timings: Iterable[tuple[datetime, str, Mapping[str, Any]]]) -> None:
        """Record timings of other machines as (time, device, values): all of them or none."""
        with self._database.transaction() as session:
            session.add_all(ThroughputRow(created_at=at, device=on, values=dict(values)) for at, on, values in timings)

    def throughput(self, limit: int = 500) -> Sequence[ThroughputRecord]:
        """The `limit` newest timings, newest first."""
        query = select(ThroughputRow).order_by(ThroughputRow.id.desc()).limit(limit)
        with self._database.reading() as session:
            return [_throughput(row) for row in session.scalars(query)]


def _evaluation(row: EvaluationRow) -> EvaluationRecord:
    return EvaluationRecord(row.id, row.run_id, row.model, row.created_at, row.values)


def _throughput(row: ThroughputRow) -> ThroughputRecord:
    return ThroughputRecord(row.id, row.created_at, row.device, row.values)
