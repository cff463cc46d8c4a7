"""Errors of zero-shot tasks.

TaskError
├── TasksNotInstalledError   lm-eval, installed by the extra `tasks`, is missing
├── TaskDataError            the data of a task is not on this machine and cannot be downloaded
└── TaskFileError            a task file cannot be read, or was refused because it could run code
"""


class TaskError(ValueError):
    """A task that cannot be run with this model."""


class TasksNotInstalledError(TaskError):
    """lm-eval is not installed."""


class TaskDataError(TaskError):
    """The data of a task is not available."""


class TaskFileError(TaskError):
    """A task file that is unreadable, invalid or refused."""
