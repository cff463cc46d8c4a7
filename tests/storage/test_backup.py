"""A backup is one file with a consistent snapshot, restored by copying it.

It can be made while others write.
"""

import shutil
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from storage_cases import SPEC, Clock

from storage import sqlite
from storage.database import Database
from storage.errors import DatabaseError
from storage.jobs import Jobs


@pytest.mark.parametrize("mode", ["PERSIST", "WAL"])
def test_a_backup_made_during_writes_is_restored_by_copying(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(sqlite, "journal_mode", lambda: mode)
    stop = threading.Event()
    with Database.open(tmp_path / "abq.db") as database, Database.open(tmp_path / "abq.db") as other:
        first = Jobs(database).submit(SPEC, clock.now)

        def write() -> None:
            while not stop.is_set():
                Jobs(other).submit(SPEC, clock.now)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                database.backup(tmp_path / f"backup-{number}.db")
        finally:
            stop.set()
            writer.join()
        written = len(Jobs(database).list(limit=100_000))
    assert not list(tmp_path.glob(".*"))
    restored = Path(shutil.copy(tmp_path / "backup-2.db", tmp_path / "restored.db"))
    with Database.open(restored) as database:
        jobs = Jobs(database).list(limit=100_000)
        assert first in jobs and len(jobs) <= written
        with database.reading() as session:
            assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        assert Jobs(database).submit(SPEC, clock.now).number == len(jobs) + 1


def test_a_backup_that_fails_says_why_and_leaves_no_file(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "there.db").write_text("mine")
    with Database.open(tmp_path / "abq.db") as database:
        with pytest.raises(DatabaseError, match="already exists"):
            database.backup(tmp_path / "there.db")
        with pytest.raises(DatabaseError, match="could not be written"):
            database.backup(tmp_path / "missing" / "backup.db")
    assert (tmp_path / "there.db").read_text() == "mine" and not list(tmp_path.glob(".*"))


def test_a_server_is_backed_up_by_pg_dump(postgresql_url: str) -> None:
    with Database.open(postgresql_url) as database, pytest.raises(DatabaseError, match="pg_dump"):
        database.backup(Path("backup.db"))
