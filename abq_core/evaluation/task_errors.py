"""What can be wrong with a zero-shot task.

TaskError
├── TasksNotInstalledError   lm-eval, which comes with the extra `tasks`, is not there
├── TaskDataError            the data of a task is neither on this machine nor can it be downloaded
└── TaskFileError            a task file that cannot be read, or was refused because of what it could do
"""


class TaskError(ValueError):
    """A task that cannot be run with this model."""


class TasksNotInstalledError(TaskError):
    """lm-eval is not installed."""


class TaskDataError(TaskError):
    """A task's data cannot be had."""


class TaskFileError(TaskError):
    """A task file that was not opened, or not run."""
