"""The line in which the writers of one SQLite file wait: first come, first served. Decides who is next, never who may.

SQLite's own waiting is a sleep that grows and a look that may come at the wrong moment: among many writers some wait a
hundred times longer than others. Here a writer takes two locks before it asks SQLite for its lock: the line's, and
holding it, the turn's; whoever has the turn leaves the line to the next. A process that dies loses both.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

TURN_SECONDS = 5.0  # whoever waited so long goes without a turn: a process that was stopped may hold it

if sys.platform == "win32":

    class Line:
        """Windows has no lock to wait for in order: SQLite alone decides."""

        def __init__(self, database: Path) -> None:
            pass

        @contextlib.contextmanager
        def turn(self) -> Iterator[None]:
            """Nothing to wait for."""
            yield
else:
    import fcntl

    class Line:
        """The line before one database file, as one process sees it."""

        def __init__(self, database: Path) -> None:
            self._paths = (f"{database}-line", f"{database}-turn")
            self._stuck = False

        @contextlib.contextmanager
        def turn(self) -> Iterator[None]:
            """Wait for one's turn to write, and hold it. Where a turn did not come once, no other is waited for."""
            held = self._take()
            try:
                yield
            finally:
                if held is not None:
                    os.close(held)

        def _take(self) -> int | None:
            held: int | None
            try:
                held = _take(self._paths, wait=False)
            except BlockingIOError:
                held = None if self._stuck else _Waiting(self._paths).wait(TURN_SECONDS)
                self._stuck = held is None
            except OSError:  # no place for the files, or a file system without locks
                held = None
            else:
                self._stuck = False
            return held

    class _Waiting(threading.Thread):
        """Waits for the locks where it may take for ever, so that the thread it waits for can give up."""

        def __init__(self, paths: tuple[str, str]) -> None:
            super().__init__(name="waits-to-write", daemon=True)
            self._paths = paths
            self._held: int | None = None
            self._given_up = False
            self._lock = threading.Lock()
            self._done = threading.Event()

        def run(self) -> None:
            with contextlib.suppress(OSError):
                held = _take(self._paths, wait=True)
                with self._lock:
                    if self._given_up:
                        os.close(held)
                    else:
                        self._held = held
            self._done.set()

        def wait(self, seconds: float) -> int | None:
            """The descriptor that holds the turn until it is closed; None where it did not come in time."""
            self.start()
            try:
                self._done.wait(seconds)
            except BaseException:
                self._give_up()
                raise
            with self._lock:
                self._given_up = self._held is None
                return self._held

        def _give_up(self) -> None:
            with self._lock:
                self._given_up = True
                if self._held is not None:
                    os.close(self._held)

    def _take(paths: tuple[str, str], wait: bool) -> int:
        """Lock the line, then the turn, and leave the line. Raises BlockingIOError where it would have to wait."""
        line = _locked(paths[0], wait)
        try:
            return _locked(paths[1], wait)
        finally:
            os.close(line)

    def _locked(path: str, wait: bool) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
