"""Process priority: background work yields the processor to other processes."""

import contextlib
import os
from pathlib import Path

NICENESS = 19
SESSION_NICENESS = Path("/proc/self/autogroup")


def lower_priority(niceness: int = NICENESS) -> None:
    """Lower the priority of this process, from 0 (unchanged) to 19.

    Linux shares processors between sessions before it shares them within a session ("autogroup"). The page starts its
    workers in new sessions, where niceness alone would leave a worker as much time as the page and all its visitors.
    If this process leads its session, the niceness of the session is set as well.
    """
    if hasattr(os, "nice"):
        os.nice(niceness)
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # not Linux, or Linux without autogroup
            SESSION_NICENESS.write_text(str(niceness))
