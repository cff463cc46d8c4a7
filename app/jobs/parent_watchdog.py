"""Ends a worker process when the process that started it is gone."""

import os
import threading
import time
from typing import Literal, Protocol

POLL_SECONDS = 0.5
ORPHAN_SECONDS = 3.0  # for the work to stop after the parent has gone
GIVE_BACK_SECONDS = 2.0  # for the job to be queued again


class Stoppable(Protocol):
    """Work on one job or on several."""

    def stop(self, reason: Literal["shutdown"]) -> None:
        """Ask the work to end at its next step."""
        ...


class Leased(Stoppable, Protocol):
    """Work under a lease that any thread can give back."""

    def give_back(self) -> None:
        """Give the job back at once. The work in this process must not continue."""
        ...


class ParentWatchdog(threading.Thread):
    """Checks twice a second whether the parent process still exists.

    An orphan without a job (`lease` is None) ends at once. An orphan with a job is asked to stop, which queues the job
    again. If it has not stopped after ORPHAN_SECONDS, because it is still importing or in a long step, the watchdog
    gives the job back and ends the process. The job did not cause that, so the attempt does not count.
    """

    def __init__(self, parent: int) -> None:
        super().__init__(name="parent-watchdog", daemon=True)
        self.lease: Leased | None = None
        self._parent = parent

    def run(self) -> None:
        """Watch until the process ends."""
        while os.getppid() == self._parent:
            time.sleep(POLL_SECONDS)
        if self.lease is not None:
            self.lease.stop("shutdown")
            time.sleep(ORPHAN_SECONDS)
            giving = threading.Thread(target=self.lease.give_back, name="give-back", daemon=True)
            giving.start()
            giving.join(
                GIVE_BACK_SECONDS
            )  # if the database is busy or locked by this process, the lease expires instead
        os._exit(1)
