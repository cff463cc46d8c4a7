"""Writers of one file are served in the order they came; a turn ends with its holder, and nobody waits for ever."""

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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's table of locks")
HOLD = """
import sys, time
from pathlib import Path
from storage.write_lock import Line
with Line(Path(sys.argv[1])).turn():
    print("held", flush=True)
    time.sleep(60)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def waiting(database: Path) -> int:
    """How many ask for the line or the turn and do not have it."""
    files = {os.stat(f"{database}{name}").st_ino for name in ("-line", "-turn")}
    blocked = [row.split() for row in Path("/proc/locks").read_text().splitlines() if "->" in row]
    return sum(int(row[6].split(":")[2]) in files for row in blocked)


def test_writers_get_their_turn_in_the_order_they_came(tmp_path: Path) -> None:
    database, order = tmp_path / "abq.db", []

    def write(number: int) -> None:
        with write_lock.Line(database).turn():
            order.append(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    with write_lock.Line(database).turn():
        for number, writer in enumerate(writers, 1):
            writer.start()
            wait_until(lambda number=number: waiting(database) == number)
    for writer in writers:
        writer.join()
    assert order == list(range(12))


def test_a_killed_writer_leaves_its_turn(tmp_path: Path) -> None:
    database = tmp_path / "abq.db"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(database)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    got = threading.Event()

    def write() -> None:
        with write_lock.Line(database).turn():
            got.set()

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: waiting(database) == 1)
    assert not got.is_set()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    writer.join()
    assert got.is_set()


def test_a_writer_goes_without_a_turn_where_it_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process may hold the turn: SQLite's own lock still decides who writes."""
    with Database.open(tmp_path / "abq.db") as database:
        with write_lock.Line(tmp_path / "abq.db").turn(), monkeypatch.context() as patch:
            patch.setattr(write_lock, "TURN_SECONDS", 0.05)
            Jobs(database).submit(SPEC, Clock().now)
            assert waiting(tmp_path / "abq.db") == 1  # it has not noticed yet that nobody needs its place
            patch.setattr(write_lock, "TURN_SECONDS", 1000)
            Jobs(database).submit(SPEC, Clock().now)  # the next one does not wait again
        wait_until(lambda: waiting(tmp_path / "abq.db") == 0)
        Jobs(database).submit(SPEC, Clock().now)
        assert len(Jobs(database).list()) == 3


def test_without_a_place_for_the_locks_sqlite_decides_alone(tmp_path: Path) -> None:
    missing = write_lock.Line(tmp_path / "missing" / "abq.db")
    with missing.turn(), missing.turn():
        pass
