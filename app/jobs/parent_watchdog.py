"""A worker's watch over the process that started it: without that process it ends, whatever it is doing."""

import os
import threading
import time
from typing import Literal, Protocol

LOOK_SECONDS = 0.5
ORPHAN_SECONDS = 3.0
GIVE_BACK_SECONDS = 2.0


class Stoppable(Protocol):
    """A hold on one job or on many."""

    def stop(self, reason: Literal["shutdown"]) -> None:
        """Ask the work to end at its next step."""
        ...


class Work(Stoppable, Protocol):
    """A hold that can be let go by another thread than the one that works."""

    def give_back(self) -> None:
        """Let others have the work at once. Whoever works on it here must not go on."""
        ...


class ParentWatch(threading.Thread):
    """Looks twice a second whether this process still has its parent.

    An orphan without a job ends at once. One that was given work (`held`) is asked to stop, which puts the job back
    into the queue. Where it has not done so after ORPHAN_SECONDS, since it is still being started or in a long step,
    the job is put back for it, and the process ends: that is no fault of the job's, so the attempt does not count.
    """

    def __init__(self, parent: int) -> None:
        super().__init__(name="parent-watch", daemon=True)
        self.held: Work | None = None
        self._parent = parent

    def run(self) -> None:
        """Until the process ends."""
        while os.getppid() == self._parent:
            time.sleep(LOOK_SECONDS)
        if self.held is not None:
            self.held.stop("shutdown")
            time.sleep(ORPHAN_SECONDS)
            giving = threading.Thread(target=self.held.give_back, name="give-back", daemon=True)
            giving.start()
            giving.join(GIVE_BACK_SECONDS)  # of a database that is busy, or locked by this process, the lease runs out
        os._exit(1)
