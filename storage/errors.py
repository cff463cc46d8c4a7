"""Everything that storage raises.

StorageError
+-- DatabaseError          the database cannot be opened, read or written
+-- JobNotFoundError       no job has this id
+-- RunNotFoundError       no run has this id
+-- JobStateError          the job's state does not allow what was asked
+-- RunBusyError           the run cannot be deleted while its job is running
+-- LostLeaseError         the worker that writes no longer owns the job
+-- JobSpecError           a job was submitted without what a run needs
+-- UnstorableValueError   a value has no place in a column (a naive time, an object that is not JSON)
"""


class StorageError(RuntimeError):
    """The base of all that storage raises."""


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
    """The job's state does not allow what was asked."""


class RunBusyError(StorageError):
    """The run cannot be deleted while its job is running."""


class LostLeaseError(StorageError):
    """The worker that writes no longer owns the job: it must stop and write nothing more, files included."""

    def __init__(self, job_id: str, epoch: int) -> None:
        super().__init__(
            f"Job {job_id!r} no longer belongs to the worker of epoch {epoch}: it has ended, was deleted, or another "
            "worker took it over. Nothing was written; this worker must stop."
        )


class JobSpecError(StorageError):
    """A job was submitted without what a run needs."""


class UnstorableValueError(StorageError):
    """A value has no place in a column."""
