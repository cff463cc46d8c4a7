"""All errors that storage raises.

StorageError
+-- DatabaseError          the database cannot be opened, read or written
+-- JobNotFoundError       no job has this id
+-- RunNotFoundError       no run has this id
+-- JobStateError          the job's state does not allow the operation
+-- QueueFullError         more jobs would be queued than the caller allows
+-- RunBusyError           the run cannot be deleted while its job is running
+-- LostLeaseError         the worker no longer owns the job it writes to
+-- JobSpecError           the submitted spec lacks a field that a run needs
+-- UnstorableValueError   a column cannot hold the value (a time without a zone, an object that is not JSON)
"""


class StorageError(RuntimeError):
    """Base class of all errors in storage."""


class DatabaseError(StorageError):
    """The database cannot be opened, read or written; the message names it and says what to do."""


class JobNotFoundError(StorageError):
    """No job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id!r}. List the jobs to see their ids; its run may have been deleted.")


class RunNotFoundError(StorageError):
    """No run has this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run {run_id!r}. List the runs to see their ids; it may have been deleted.")


class JobStateError(StorageError):
    """The job's state does not allow the operation."""


class QueueFullError(StorageError):
    """More jobs would be queued than the caller allows."""

    def __init__(self, queued: int, new: int, limit: int) -> None:
        super().__init__(
            f"{queued:,} jobs are queued, and the limit is {limit:,}: {new:,} more cannot be added. Wait for some to "
            "finish, or cancel some."
        )


class RunBusyError(StorageError):
    """The run cannot be deleted while its job is running."""


class LostLeaseError(StorageError):
    """The worker no longer owns the job it writes to.

    It must stop and write nothing more, including files.
    """

    def __init__(self, job_id: str, epoch: int) -> None:
        super().__init__(
            f"Job {job_id!r} no longer belongs to the worker of epoch {epoch}: it has ended, was deleted, or another "
            "worker took it over. Nothing was written; this worker must stop."
        )


class JobSpecError(StorageError):
    """The submitted spec lacks a field that a run needs."""


class UnstorableValueError(StorageError):
    """A column cannot hold the value."""
