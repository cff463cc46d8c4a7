"""The lease of one claimed job: its heartbeat thread, and the reasons to stop working on it."""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Literal

from app.clock import now
from storage.errors import DatabaseError, JobNotFoundError, LostLeaseError, StorageError
from storage.jobs import LEASE, Job, Jobs

Reason = Literal["cancelled", "shutdown", "lost"]
HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 0.5  # between checks for a requested cancel


class JobStopped(Exception):
    """Work on the job stops here without an error; `reason` says why.

    cancelled: a user cancelled it.  shutdown: this process was asked to end.  lost: another worker owns the job.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class JobLease:
    """The lease of a claimed job, as a context manager.

    A separate thread extends the lease and tells the work when to stop.
    """

    def __init__(self, jobs: Jobs, job: Job, lease: timedelta = LEASE) -> None:
        self.job = job
        self._jobs = jobs
        self._lease = lease
        self._reason: Reason | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> "JobLease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(timeout=HEARTBEAT_SECONDS)

    def stop(self, reason: Reason) -> None:
        """Ask the work to stop at its next step.

        The first reason is kept, except that a lost lease overrides it.
        """
        if self._reason is None or reason == "lost":
            self._reason = reason

    def give_back(self) -> None:
        """Queue the job again if this process still owns it; the attempt does not count."""
        self.stop("lost")
        with contextlib.suppress(StorageError):
            self._jobs.release(
                self.job.id, self.job.epoch, now(), "Its worker lost its parent process and did not stop in time."
            )

    def check(self) -> None:
        """Check in every step of the work whether it must stop. Raises JobStopped."""
        if self._reason is not None:
            raise JobStopped(self._reason)

    def assert_owned(self) -> None:
        """Check ownership in storage before a file is renamed into place.

        Raises JobStopped, LostLeaseError.
        """
        self.check()
        self._jobs.heartbeat(self.job.id, self.job.epoch, now(), self._lease)

    def _beat(self) -> None:
        next_beat = time.monotonic()
        lease_ends = time.monotonic() + self._lease.total_seconds()
        while not self._done.wait(POLL_SECONDS):
            try:
                if time.monotonic() >= next_beat:
                    cancel = self._jobs.heartbeat(self.job.id, self.job.epoch, now(), self._lease)
                    next_beat = time.monotonic() + HEARTBEAT_SECONDS
                    lease_ends = time.monotonic() + self._lease.total_seconds()
                else:
                    cancel = self._jobs.get(self.job.id).cancel_requested
            except (LostLeaseError, JobNotFoundError):
                self.stop("lost")
                return
            except DatabaseError:
                if time.monotonic() > lease_ends:
                    self.stop("lost")
                    return
                continue
            if cancel:
                self.stop("cancelled")


def throttled(
    call: Callable[[], None], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Callable[..., None]:
    """Wrap `call` so that it runs at most once per `seconds`; `force=True` runs it in any case."""
    last = float("-inf")

    def throttled_call(*, force: bool = False) -> None:
        nonlocal last
        if force or clock() - last >= seconds:
            call()
            last = clock()

    return throttled_call
