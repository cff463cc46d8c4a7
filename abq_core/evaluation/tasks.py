"""Zero-shot tasks through lm-eval, which the extra `tasks` installs: by name, or from a task file of the user's own."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, StrictUndefined, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from abq_core.evaluation.task_errors import TaskDataError, TaskError, TaskFileError, TasksNotInstalledError
from abq_core.evaluation.task_files import SUFFIXES, TaskFile, read_task_file
from abq_core.models.loading import LoadedModel
from abq_core.text.errors import DataError
from abq_core.text.hub_texts import dataset_commit

# name -> the folder of lm-eval's tasks that has it, and the data set of the hub that it reads
NAMED_TASKS: Mapping[str, tuple[str, str]] = {
    "piqa": ("piqa", "baber/piqa"),
    "arc_easy": ("arc", "allenai/ai2_arc"),
    "arc_challenge": ("arc", "allenai/ai2_arc"),
    "boolq": ("super_glue/boolq", "aps/super_glue"),
    "hellaswag": ("hellaswag", "Rowan/hellaswag"),
    "winogrande": ("winogrande", "allenai/winogrande"),
}
_HEADLINES = ("acc", "exact_match", "acc_norm")  # the first of these that a task has is its score
_FEWSHOT_SEED = 1234  # lm-eval's own default
_BOOTSTRAPS = 1000
# what lm-eval makes of a template, an answer or a metric that does not fit the data
_MISFITS = (TemplateError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True)
class TaskScore:
    """What a task gave. metrics: by name, such as acc and acc_norm, 0 to 1.  stderr: their standard errors, where there
    are such.  samples: how many questions were asked, of how many.  source: lm-eval's version, or a task file's sha256.
    """

    task: str
    metrics: Mapping[str, float]
    stderr: Mapping[str, float]
    samples: int
    of: int
    shots: int
    version: str
    source: str

    @property
    def headline(self) -> str:
        """The name of the metric that stands for the task: accuracy where it has one."""
        return next((name for name in _HEADLINES if name in self.metrics), next(iter(self.metrics)))


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise what `run_tasks` would before it loads anything: TasksNotInstalledError, TaskFileError, TaskError."""
    _resolve(tasks)


def run_tasks(
    model: LoadedModel,
    tasks: Sequence[str],
    limit: int | None = None,
    on_step: Callable[[str, int, int], None] | None = None,
) -> Iterator[TaskScore]:
    """Ask the questions of each task, one task after the other; all are loaded before the first is run.

    tasks: of NAMED_TASKS, or paths of .yaml files (`task_files.read_task_file`).  limit: questions of each at most,
    None for all.  `on_step(task, done, total)` counts requests, and may raise to stop. Raises TaskError and its kinds.
    """
    resolved = _resolve(tasks)
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval would fork this process, threads and all, to bootstrap
    with _quiet():
        for name, (task, source) in _load(resolved).items():
            yield _run(model, name, task, source, limit, on_step)


def _resolve(tasks: Sequence[str]) -> dict[str, TaskFile | None]:
    """The tasks by name, with the checked file of those that have one."""
    if find_spec("lm_eval") is None:
        raise TasksNotInstalledError("Tasks are run by lm-eval, which is not here: pip install 'abq-explorer[tasks]'.")
    if not tasks:
        raise TaskError(f"No task is given: use {', '.join(NAMED_TASKS)}, or a .yaml file of your own.")
    resolved: dict[str, TaskFile | None] = {}
    for task in tasks:
        name, file = _named_or_file(task)
        if name in resolved:
            raise TaskError(f"The task '{name}' is given twice: name each once.")
        resolved[name] = file
    return resolved


def _named_or_file(task: str) -> tuple[str, TaskFile | None]:
    if task in NAMED_TASKS:
        return task, None
    if Path(task).suffix.lower() not in SUFFIXES:
        raise TaskError(f"There is no task '{task}': use {', '.join(NAMED_TASKS)}, or a .yaml file of your own.")
    file = read_task_file(Path(task))
    if file.name in NAMED_TASKS:
        raise TaskFileError(f"'{task}' calls its task '{file.name}', as a known task is called. Give it another name.")
    return file.name, file


def _load(tasks: Mapping[str, TaskFile | None]) -> dict[str, tuple[Any, str]]:
    """Every task with its data, and where it is from. Raises TaskDataError, which names all that cannot be had."""
    from datasets.exceptions import DatasetsError

    _use_sandbox()
    loaded: dict[str, tuple[Any, str]] = {}
    missing: list[str] = []
    reason = ""
    for name, file in tasks.items():
        data_set = NAMED_TASKS[name][1] if file is None else file.data_set
        try:
            with _reachable_or_offline(data_set):
                with _as_task_error(name, DatasetsError):
                    task = _named_task(name) if file is None else _file_task(file)
        except ConnectionError as error:
            missing.append(f"'{name}' ({data_set})")
            reason = str(error)
            continue
        loaded[name] = (task, f"lm-eval {version('lm-eval')}" if file is None else f"sha256 {file.sha256}")
    if missing:
        raise TaskDataError(
            f"The data of {', '.join(missing)} is not on this machine, and the hub cannot be reached ({reason[:120]}). "
            "Run it once with internet, or use a task file of your own with its data beside it."
        )
    return loaded


@contextmanager
def _reachable_or_offline(data_set: str | None) -> Iterator[None]:
    """Ask the hub once; where it is out of reach, work with what is on this machine, without a minute of retries.

    Raises ConnectionError where that is not enough, TaskDataError where the hub does not know the data set.
    """
    try:
        if data_set is not None:
            dataset_commit(data_set)
    except DataError as error:
        raise TaskDataError(str(error)) from error
    except ConnectionError as unreachable:
        with _offline():
            try:
                yield
            except (ConnectionError, TaskError):  # what is not in the cache, or not whole
                raise unreachable from None
        return
    yield


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's library and `datasets` as with HF_HUB_OFFLINE, which they read only when they are imported."""
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _named_task(name: str) -> Any:
    """A task that comes with lm-eval."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / NAMED_TASKS[name][0]
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[folder])
    return manager.load([name])["tasks"][name]


def _file_task(file: TaskFile) -> Any:
    """A task from a checked file."""
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config={key: value for key, value in file.config.items() if key != "tag"})


@contextmanager
def _as_task_error(name: str, *more: type[Exception]) -> Iterator[None]:
    """What questions make lm-eval, jinja or the model raise is a TaskError that names the task."""
    kinds: tuple[type[Exception], ...] = (*_MISFITS, *more)
    try:
        yield
    except (ConnectionError, TaskError):
        raise
    except kinds as error:
        raise TaskError(
            f"The task '{name}' cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:200]} Check its "
            "templates, its splits and its data."
        ) from error


def _run(
    model: LoadedModel,
    name: str,
    task: Any,
    source: str,
    limit: int | None,
    on_step: Callable[[str, int, int], None] | None,
) -> TaskScore:
    from lm_eval.evaluator import evaluate

    from abq_core.evaluation.task_model import TaskModel

    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    said = None if on_step is None else partial(on_step, name)
    with _as_task_error(name):
        results = evaluate(
            lm=TaskModel(model, said),
            task_dict={"tasks": {name: task}},
            limit=limit,
            bootstrap_iters=_BOOTSTRAPS,
            log_samples=False,
        )
    return _score(name, source, results)


def _score(name: str, source: str, results: Mapping[str, Any]) -> TaskScore:
    """lm-eval's answer, "acc,none" and "acc_stderr,none" and so on, as a TaskScore."""
    metrics: dict[str, float] = {}
    stderr: dict[str, float] = {}
    for key, value in results["results"][name].items():
        metric, comma, which = key.partition(",")
        if not comma or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        kind = stderr if metric.endswith("_stderr") else metrics
        kind[metric.removesuffix("_stderr") + ("" if which == "none" else f" ({which})")] = float(value)
    if not metrics:
        raise TaskError(f"The task '{name}' gave no number. Its metric_list must fit its output_type.")
    counts = results["n-samples"][name]
    return TaskScore(
        task=name,
        metrics=metrics,
        stderr=stderr,
        samples=int(counts["effective"]),
        of=int(counts["original"]),
        shots=int(results["n-shot"].get(name) or 0),
        version=str(results["versions"].get(name)),
        source=source,
    )


def _use_sandbox() -> None:
    """Let lm-eval's templates run where they reach nothing but the fields of a question. Raises TaskError."""
    import lm_eval.utils

    plain = lm_eval.utils.env
    if not isinstance(plain, ImmutableSandboxedEnvironment):
        sandbox = ImmutableSandboxedEnvironment(
            loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=plain.keep_trailing_newline
        )
        sandbox.filters.update(plain.filters)
        lm_eval.utils.env = sandbox
    try:
        lm_eval.utils.apply_template("{{ cycler.__init__.__globals__ }}", {})
    except SecurityError:
        return
    raise TaskError(f"lm-eval {version('lm-eval')} does not keep templates in a sandbox here. Install lm-eval 0.4.13.")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice of lm-eval and `datasets` on the terminal; what matters is raised."""
    import datasets
    import lm_eval.api.task

    loggers = [logging.getLogger("lm_eval"), logging.getLogger("datasets")]
    levels = [logger.level for logger in loggers]
    bar, bars = lm_eval.api.task.tqdm, datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda items, **_: items
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if not bars:
            datasets.enable_progress_bars()
