"""Run zero-shot tasks with lm-eval, by name or from a user's task file.

The extra `tasks` installs lm-eval.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from abq_core.evaluation.lm_eval_internals import silenced
from abq_core.evaluation.task_loading import LoadedTask, as_task_error, load_tasks, resolve_tasks
from abq_core.evaluation.task_score import TaskScore
from abq_core.models.loading import LoadedModel

_FEWSHOT_SEED = 1234  # lm-eval's default
_BOOTSTRAP_RESAMPLES = 1000

OnTaskStep = Callable[[str, int, int], None]


def check_tasks(tasks: Sequence[str]) -> None:
    """Check names and task files as `run_tasks` does, without loading anything.

    Raises TasksNotInstalledError, TaskFileError, TaskError.
    """
    resolve_tasks(tasks)


def run_tasks(
    model: LoadedModel, tasks: Sequence[str], limit: int | None = None, on_step: OnTaskStep | None = None
) -> Iterator[TaskScore]:
    """Yield the score of each task in order; all tasks are loaded before the first one runs.

    tasks: of NAMED_TASKS, or paths of .yaml files (`task_files.read_task_file`).  limit: maximum number of questions
    per task.  `on_step(task, done, total)` counts requests, and may raise to stop. Raises TaskError and its subclasses.
    """
    resolved = resolve_tasks(tasks)
    # lm-eval's documented switch: its bootstrap would otherwise fork this process, which runs threads
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with silenced():
        for name, loaded in load_tasks(resolved).items():
            yield _run(model, name, loaded, limit, on_step)


def _run(model: LoadedModel, name: str, loaded: LoadedTask, limit: int | None, on_step: OnTaskStep | None) -> TaskScore:
    from lm_eval.evaluator import evaluate

    from abq_core.evaluation.task_model import TaskModel

    task = loaded.task
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    with as_task_error(name):
        results = evaluate(
            lm=TaskModel(model, None if on_step is None else partial(on_step, name)),
            task_dict={"tasks": {name: task}},
            limit=limit,
            bootstrap_iters=_BOOTSTRAP_RESAMPLES,
            log_samples=False,
        )
    return TaskScore.from_results(name, loaded.source, results)
