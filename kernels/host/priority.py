"""Work that nobody waits for: it takes only what other processes leave."""

import contextlib
import os
from pathlib import Path

NICENESS = 19
SESSION_NICENESS = Path("/proc/self/autogroup")


def lower_priority(niceness: int = NICENESS) -> None:
    """Let other processes go first, from 0 (not at all) to 19.

    Linux divides its processors among sessions first and then within each ("autogroup"): in a session of its own, where
    the page puts its workers, a process would have as much as the page and all its visitors together, however nice.
    """
    if hasattr(os, "nice"):
        os.nice(niceness)
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # another system, or a Linux without it
            SESSION_NICENESS.write_text(str(niceness))
