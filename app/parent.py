"""A worker's watch over the process that started it: without that process it ends, whatever it is doing."""

import os
import threading
import time
from typing import Literal, Protocol

LOOK_SECONDS = 0.5
ORPHAN_SECONDS = 6.0


class Stoppable(Protocol):
    """A hold on one job or on many."""

    def stop(self, reason: Literal["shutdown"]) -> None:
        """Ask the work to end at its next step."""
        ...


class ParentWatch(threading.Thread):
    """Looks twice a second whether this process still has its parent.

    An orphan without a job ends at once. One that was given work (`held`) is asked to stop, which puts the job back
    into the queue, and ends after ORPHAN_SECONDS in any case: then the lease runs out.
    """

    def __init__(self, parent: int) -> None:
        super().__init__(name="parent-watch", daemon=True)
        self.held: Stoppable | None = None
        self._parent = parent

    def run(self) -> None:
        """Until the process ends."""
        while os.getppid() == self._parent:
            time.sleep(LOOK_SECONDS)
        if self.held is not None:
            self.held.stop("shutdown")
            time.sleep(ORPHAN_SECONDS)
        os._exit(1)
