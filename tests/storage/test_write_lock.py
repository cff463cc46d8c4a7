"""The fair write lock.

First come, first served; released when its holder dies; no writer waits forever.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from storage_cases import SPEC, Clock

from storage import write_lock
from storage.database import Database
from storage.jobs import Jobs
from storage.write_lock import FairWriteLock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's table of locks")
HOLD = """
import sys, time
from pathlib import Path
from storage.write_lock import FairWriteLock
with FairWriteLock(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(60)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def waiting(database: Path) -> int:
    """How many writers are blocked on the queue lock or the write lock."""
    files = {os.stat(f"{database}{suffix}").st_ino for suffix in ("-line", "-turn")}
    blocked = [row.split() for row in Path("/proc/locks").read_text().splitlines() if "->" in row]
    return sum(int(row[6].split(":")[2]) in files for row in blocked)


def test_the_lock_files_have_the_names_that_earlier_versions_use(tmp_path: Path) -> None:
    """A process of an earlier version may write to the same database at the same time."""
    with FairWriteLock(tmp_path / "abq.db").held():
        assert sorted(path.name for path in tmp_path.iterdir()) == ["abq.db-line", "abq.db-turn"]


def test_writers_get_the_lock_in_the_order_they_came(tmp_path: Path) -> None:
    database, order = tmp_path / "abq.db", []

    def write(number: int) -> None:
        with FairWriteLock(database).held():
            order.append(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    with FairWriteLock(database).held():
        for number, writer in enumerate(writers, 1):
            writer.start()
            wait_until(lambda number=number: waiting(database) == number)
    for writer in writers:
        writer.join()
    assert order == list(range(12))


def test_a_killed_writer_releases_the_lock(tmp_path: Path) -> None:
    database = tmp_path / "abq.db"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(database)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    got = threading.Event()

    def write() -> None:
        with FairWriteLock(database).held():
            got.set()

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: waiting(database) == 1)
    assert not got.is_set()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    writer.join()
    assert got.is_set()


def test_a_writer_proceeds_without_the_lock_after_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process may hold the lock: SQLite's own lock still decides who writes."""
    with Database.open(tmp_path / "abq.db") as database:
        with FairWriteLock(tmp_path / "abq.db").held(), monkeypatch.context() as patch:
            patch.setattr(write_lock, "WAIT_SECONDS", 0.05)
            Jobs(database).submit(SPEC, Clock().now)
            assert waiting(tmp_path / "abq.db") == 1  # the thread that waits has not noticed yet
            patch.setattr(write_lock, "WAIT_SECONDS", 1000)
            Jobs(database).submit(SPEC, Clock().now)  # the next write does not wait again
        wait_until(lambda: waiting(tmp_path / "abq.db") == 0)
        Jobs(database).submit(SPEC, Clock().now)
        assert len(Jobs(database).list()) == 3


def test_writers_proceed_if_the_lock_files_cannot_be_created(tmp_path: Path) -> None:
    missing = FairWriteLock(tmp_path / "missing" / "abq.db")
    with missing.held(), missing.held():
        pass
