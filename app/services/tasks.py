"""What zero-shot tasks give for a run or a model, stored task by task. Leaves the asking to abq_core."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from abq_core.calibration.quantized_block import Engine
from abq_core.evaluation.tasks import TaskScore, check_tasks, run_tasks
from app.clock import now

if TYPE_CHECKING:
    from app.services.explorer import Explorer


def measure_tasks(
    explorer: "Explorer",
    ref_or_run: str,
    tasks: Sequence[str],
    limit: int | None,
    engine: Engine,
    on_step: Callable[[str, int, int], None] | None,
) -> list[TaskScore]:
    """Run the tasks one after the other and store the score of each when it is there. Raises TaskError."""
    check_tasks(tasks)
    run = explorer.run(ref_or_run) if ref_or_run.startswith("r-") else None
    model = explorer.registry.full(ref_or_run) if run is None else explorer.registry.run(run.id, engine)
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
        explorer.measurements.add_task_score(run.id if run else None, model.ref, now(), values)
        scores.append(score)
        started = time.perf_counter()
    return scores
