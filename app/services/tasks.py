"""Zero-shot tasks: run on a model or a run, stored task by task."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas

from app.clock import now
from app.services import dataframes
from app.services.registry import ModelRegistry
from app.services.stored import Storage
from storage.run_ids import means_run

if TYPE_CHECKING:
    from abq_core.calibration.quantized_block import Engine
    from abq_core.evaluation.task_score import TaskScore


class TaskService:
    """Zero-shot task scores of runs and models."""

    def __init__(self, storage: Storage, registry: ModelRegistry) -> None:
        self._runs, self._measurements, self._registry = storage.runs, storage.measurements, registry

    def evaluate(
        self,
        ref_or_run: str,
        tasks: Sequence[str],
        limit: int | None = None,
        engine: "Engine" = "simulated",
        on_step: Callable[[str, int, int], None] | None = None,
    ) -> "list[TaskScore]":
        """Run the tasks in order and store the score of each one as soon as it is known.

        tasks: names, or paths of .yaml files.  limit: questions per task.
        on_step(task, done, total): may raise to stop.
        Raises TaskError, RunNotFoundError, MissingBlockError, ModelError, ServiceError.
        """
        from abq_core.evaluation.tasks import check_tasks, run_tasks

        check_tasks(tasks)
        run = self._runs.get(ref_or_run) if means_run(ref_or_run) else None
        model = (
            self._registry.full(self._registry.stored_model(ref_or_run))
            if run is None
            else self._registry.run(run.id, engine)
        )
        about = {
            "precision": "FP16" if run is None else run.precision,
            "method": "none" if run is None else run.method,
            "engine": "full" if run is None else engine,
            "limit": limit,
        }
        scores = []
        started = time.perf_counter()
        for score in run_tasks(model, tasks, limit, on_step):
            values = {**asdict(score), **about, "headline": score.headline, "seconds": time.perf_counter() - started}
            self._measurements.add_task_score(run.id if run else None, model.ref, now(), values)
            scores.append(score)
            started = time.perf_counter()
        return scores

    def frame(self, run_id: str | None = None) -> pandas.DataFrame:
        """The latest score of each task, of one run or (None) of all runs and models."""
        return dataframes.task_frame(self._measurements.task_scores(run_id))
