"""A fair lock for the writers of one SQLite file: first come, first served.

SQLite's busy handler sleeps longer and longer between attempts, so a few writers starve while others get the lock
repeatedly. Here a writer first takes two flocks on files next to the database: the queue lock, then, while it holds
that, the write lock. The kernel serves flock waiters in order; at most one writer waits for the write lock, all others
for the queue lock. The system releases both when a process dies.

The lock decides only who goes next. SQLite's own lock still protects the file, so a writer may proceed without it.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

WAIT_SECONDS = 5.0  # then proceed without the lock: a stopped process may hold it
QUEUE_SUFFIX, WRITE_SUFFIX = "-line", "-turn"  # names on disk: processes of earlier versions use the same files

if sys.platform == "win32":

    class FairWriteLock:
        """Does nothing: Windows has no file lock that serves waiters in order. SQLite alone decides."""

        def __init__(self, database: Path) -> None:
            pass

        @contextlib.contextmanager
        def held(self) -> Iterator[None]:
            """Proceed at once."""
            yield
else:
    import fcntl

    class FairWriteLock:
        """The write lock of one database file. One instance per process; every thread may use it."""

        def __init__(self, database: Path) -> None:
            self._paths = (f"{database}{QUEUE_SUFFIX}", f"{database}{WRITE_SUFFIX}")
            self._timed_out = False

        @contextlib.contextmanager
        def held(self) -> Iterator[None]:
            """Wait for the lock and hold it; proceed without it after WAIT_SECONDS.

            After a timeout, later calls do not wait until the lock has been free once.
            """
            descriptor = self._acquire()
            try:
                yield
            finally:
                if descriptor is not None:
                    os.close(descriptor)

        def _acquire(self) -> int | None:
            descriptor: int | None
            try:
                descriptor = _take(self._paths, wait=False)
            except BlockingIOError:
                descriptor = None if self._timed_out else _Waiter(self._paths).wait(WAIT_SECONDS)
                self._timed_out = descriptor is None
            except OSError:  # the lock files cannot be created, or the file system has no locks
                descriptor = None
            else:
                self._timed_out = False
            return descriptor

    class _Waiter(threading.Thread):
        """Waits for the locks in a thread, so that the caller can give up.

        A blocking flock has no timeout.
        """

        def __init__(self, paths: tuple[str, str]) -> None:
            super().__init__(name="wait-for-write-lock", daemon=True)
            self._paths = paths
            self._descriptor: int | None = None
            self._given_up = False
            self._mutex = threading.Lock()
            self._done = threading.Event()

        def run(self) -> None:
            with contextlib.suppress(OSError):
                descriptor = _take(self._paths, wait=True)
                with self._mutex:
                    if self._given_up:
                        os.close(descriptor)
                    else:
                        self._descriptor = descriptor
            self._done.set()

        def wait(self, seconds: float) -> int | None:
            """Wait up to this many seconds. Returns the descriptor of the write lock, or None.

            Closing the descriptor releases the lock.
            """
            self.start()
            try:
                self._done.wait(seconds)
            except BaseException:
                self._give_up()
                raise
            with self._mutex:
                self._given_up = self._descriptor is None
                return self._descriptor

        def _give_up(self) -> None:
            with self._mutex:
                self._given_up = True
                if self._descriptor is not None:
                    os.close(self._descriptor)

    def _take(paths: tuple[str, str], wait: bool) -> int:
        """Take the queue lock, then the write lock, then release the queue lock.

        Returns the write lock's descriptor.
        Raises BlockingIOError if `wait` is False and another writer holds either lock.
        """
        queue = _lock_file(paths[0], wait)
        try:
            return _lock_file(paths[1], wait)
        finally:
            os.close(queue)

    def _lock_file(path: str, wait: bool) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
