"""A lock file that one process at a time can hold.

The system releases it when the process dies.
"""

from pathlib import Path

from filelock import FileLock, Timeout


class SingleInstance:
    """An exclusive lock on a file (flock), held by at most one process.

    Safe to use from several threads.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, thread_local=False)

    def acquire(self) -> bool:
        """Take the lock without waiting; True at once if it is held already.

        False if another process holds it.
        """
        if self._lock.is_locked:
            return True
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Release the lock if it is held."""
        self._lock.release(force=True)
