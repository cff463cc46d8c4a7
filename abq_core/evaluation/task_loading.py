"""Find zero-shot tasks by name or file, and load them with their data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from abq_core.evaluation.lm_eval_internals import sandbox_templates
from abq_core.evaluation.offline import offline
from abq_core.evaluation.task_errors import TaskDataError, TaskError, TaskFileError, TasksNotInstalledError
from abq_core.evaluation.task_files import SUFFIXES, TaskFile, read_task_file
from abq_core.text.errors import DataError
from abq_core.text.hub_texts import dataset_commit

# name -> its folder among lm-eval's tasks, and the hub data set that it reads
NAMED_TASKS: Mapping[str, tuple[str, str]] = {
    "piqa": ("piqa", "baber/piqa"),
    "arc_easy": ("arc", "allenai/ai2_arc"),
    "arc_challenge": ("arc", "allenai/ai2_arc"),
    "boolq": ("super_glue/boolq", "aps/super_glue"),
    "hellaswag": ("hellaswag", "Rowan/hellaswag"),
    "winogrande": ("winogrande", "allenai/winogrande"),
}
# raised by lm-eval for templates, answers or metrics that do not fit the data
_MISMATCH_ERRORS = (TemplateError, ValueError, LookupError, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True)
class LoadedTask:
    """lm-eval's task object, and its source: lm-eval's version or the sha256 of a task file."""

    task: Any
    source: str


def resolve_tasks(tasks: Sequence[str]) -> dict[str, TaskFile | None]:
    """Map task names to their checked task files; None for a named task.

    Raises TasksNotInstalledError, TaskFileError, TaskError.
    """
    if find_spec("lm_eval") is None:
        raise TasksNotInstalledError("Tasks need lm-eval, which is not installed: pip install 'abq-explorer[tasks]'.")
    if not tasks:
        raise TaskError(f"No task was given: use {', '.join(NAMED_TASKS)}, or your own .yaml file.")
    resolved: dict[str, TaskFile | None] = {}
    for task in tasks:
        name, file = _resolve_task(task)
        if name in resolved:
            raise TaskError(f"The task '{name}' was given twice: name each task once.")
        resolved[name] = file
    return resolved


def _resolve_task(task: str) -> tuple[str, TaskFile | None]:
    if task in NAMED_TASKS:
        return task, None
    if Path(task).suffix.lower() not in SUFFIXES:
        raise TaskError(f"The task '{task}' does not exist: use {', '.join(NAMED_TASKS)}, or your own .yaml file.")
    file = read_task_file(Path(task))
    if file.name in NAMED_TASKS:
        raise TaskFileError(f"'{task}' uses the name of the known task '{file.name}'. Give it another name.")
    return file.name, file


def load_tasks(tasks: Mapping[str, TaskFile | None]) -> dict[str, LoadedTask]:
    """Load every task with its data.

    Raises TaskDataError, which names every task whose data is not available, and TaskError.
    """
    from datasets.exceptions import DatasetsError

    sandbox_templates()
    loaded: dict[str, LoadedTask] = {}
    missing: list[str] = []
    reason = ""
    for name, file in tasks.items():
        data_set = NAMED_TASKS[name][1] if file is None else file.data_set
        try:
            with _online_or_cached(data_set):
                with as_task_error(name, DatasetsError):
                    task = _named_task(name) if file is None else _task_from_file(file)
        except ConnectionError as error:
            missing.append(f"'{name}' ({data_set})")
            reason = str(error)
            continue
        loaded[name] = LoadedTask(task, f"lm-eval {version('lm-eval')}" if file is None else f"sha256 {file.sha256}")
    if missing:
        raise TaskDataError(
            f"The data of {', '.join(missing)} is not on this machine, and the hub cannot be reached ({reason[:120]}). "
            "Run it once with internet access, or use your own task file with local data files."
        )
    return loaded


@contextmanager
def as_task_error(name: str, *more: type[Exception]) -> Iterator[None]:
    """Convert errors of templates, answers and metrics, and those in `more`, to a TaskError."""
    kinds: tuple[type[Exception], ...] = (*_MISMATCH_ERRORS, *more)
    try:
        yield
    except (ConnectionError, TaskError):
        raise
    except kinds as error:
        raise TaskError(
            f"The task '{name}' cannot be run: {type(error).__name__}: {' '.join(str(error).split())[:200]} Check its "
            "templates, its splits and its data."
        ) from error


@contextmanager
def _online_or_cached(data_set: str | None) -> Iterator[None]:
    """Ask the hub once; if it cannot be reached, work offline without retries.

    Raises ConnectionError if the cache does not contain the data set, TaskDataError if the hub does not know it.
    """
    try:
        if data_set is not None:
            dataset_commit(data_set)
    except DataError as error:
        raise TaskDataError(str(error)) from error
    except ConnectionError as unreachable:
        with offline():
            try:
                yield
            except (ConnectionError, TaskError):  # missing from the cache, or incomplete there
                raise unreachable from None
        return
    yield


def _named_task(name: str) -> Any:
    """A task that is part of lm-eval.

    Only its folder is scanned; scanning all tasks takes seconds.
    """
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / NAMED_TASKS[name][0]
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=[folder])
    return manager.load([name])["tasks"][name]


def _task_from_file(file: TaskFile) -> Any:
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config={key: value for key, value in file.config.items() if key != "tag"})
