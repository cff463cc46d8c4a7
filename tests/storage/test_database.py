"""Opening the database.

New, existing, in other journal modes, and every way in which it fails.
"""

import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from storage_cases import SPEC, Clock

from storage import sqlite
from storage.database import Database
from storage.errors import DatabaseError
from storage.jobs import Job, Jobs
from storage.schema import Base


@contextmanager
def readable_folder() -> Iterator[Path]:
    """A folder that another user can enter, which pytest's own folders do not allow."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run the block as user nobody, because root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def value(database: Database, statement: str) -> object:
    with database.reading() as session:
        return session.scalar(text(statement))


def test_a_new_database_has_the_schema_of_the_models(database: Database) -> None:
    with database.reading() as session:
        context = MigrationContext.configure(session.connection())
        assert context.get_current_revision() == "0004"
        assert compare_metadata(context, Base.metadata) == []


def test_every_write_transaction_is_counted(database: Database) -> None:
    before = database.writes
    job = Jobs(database).submit(SPEC, Clock().now)
    with pytest.raises(ZeroDivisionError), database.transaction():
        assert database.writes == before + 1, "counted when it ends: no reader sees it before"
        1 // 0  # noqa: B018
    assert database.writes == before + 2, "a failed one counts too: its commit may have taken effect"
    Jobs(database).get(job.id)
    assert database.writes == before + 2


def test_the_check_constraints_are_those_of_the_models(tmp_path: Path) -> None:
    """Alembic does not compare CHECK constraints, so compare SQLite's own text of both."""

    def checks(create: str) -> set[str]:
        return {line.strip().rstrip(",") for line in create.replace("\t", "").splitlines() if "CHECK" in line}

    def tables(connection: sqlite3.Connection) -> dict[str, set[str]]:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        )
        return {name: checks(create) for name, create in rows if name != "alembic_version"}

    Database.open(tmp_path / "migrated.db").close()
    engine = sqlite.make_engine(Database.open(tmp_path / "abq.db").url.set(database=str(tmp_path / "models.db")))
    Base.metadata.create_all(engine)
    engine.dispose()
    found = []
    for name in ("migrated.db", "models.db"):
        connection = sqlite3.connect(tmp_path / name)
        found.append(tables(connection))
        connection.close()
    assert found[0] == found[1]
    assert len(found[0]["jobs"]) == 5


def test_data_persists_when_the_database_is_reopened(url: str, clock: Clock) -> None:
    with Database.open(url) as database:
        job = Jobs(database).submit(SPEC, clock.now)
    with Database.open(url) as database:
        assert Jobs(database).get(job.id) == job


def test_folders_are_created_and_unusual_names_work(tmp_path: Path) -> None:
    path = tmp_path / "no such" / "50 %s?#ü" / "abq.db"
    with Database.open(path) as database:
        assert database.path == path
    assert path.is_file()


def test_pragmas_hold_on_every_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="storage.database"), Database.open(tmp_path / "abq.db") as database:
        with database.reading() as one, database.reading() as two:
            for session in (one, two):
                assert session.scalar(text("PRAGMA foreign_keys")) == 1
                assert session.scalar(text("PRAGMA synchronous")) == 2
                assert session.scalar(text("PRAGMA busy_timeout")) == sqlite.BUSY_SECONDS * 1000
                assert str(session.scalar(text("PRAGMA journal_mode"))).upper() == sqlite.journal_mode()
        assert value(database, "PRAGMA integrity_check") == "ok"
    assert f"journal mode {sqlite.journal_mode()}" in caplog.text


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "PERSIST"),
        ((3, 44, 5), "PERSIST"),
        ((3, 44, 6), "WAL"),
        ((3, 45, 0), "PERSIST"),
        ((3, 50, 6), "PERSIST"),
        ((3, 50, 7), "WAL"),
        ((3, 51, 2), "PERSIST"),
        ((3, 51, 3), "WAL"),
        ((3, 52, 0), "WAL"),
        ((4, 0, 0), "WAL"),
    ],
)
def test_wal_is_used_only_with_a_fixed_sqlite(version: tuple[int, int, int], mode: str) -> None:
    assert sqlite.journal_mode(version) == mode


def test_the_journal_mode_changes_with_the_sqlite_version(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("WAL", "PERSIST", "WAL"):
        monkeypatch.setattr(sqlite, "journal_mode", lambda mode=mode: mode)
        with Database.open(tmp_path / "abq.db") as database:
            assert value(database, "PRAGMA journal_mode") == mode.lower()
            Jobs(database).submit(SPEC, clock.now)
            assert value(database, "PRAGMA integrity_check") == "ok"
            count = value(database, "SELECT count(*) FROM jobs")
    assert count == 3


def test_a_transaction_that_raises_is_rolled_back(database: Database, jobs: Jobs, running: Job, clock: Clock) -> None:
    with pytest.raises(KeyError), database.transaction() as session:
        session.execute(text("UPDATE jobs SET message = 'half'"))
        raise KeyError
    assert jobs.get(running.id) == running


def test_a_file_that_is_not_a_database_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 1000)
    with pytest.raises(DatabaseError, match=r"notes\.txt.* is not a SQLite database"):
        Database.open(path)
    assert path.read_text() == "my notes\n" * 1000


def test_a_damaged_database_says_so(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "abq.db"
    with Database.open(path) as database:
        for _ in range(20):
            Jobs(database).submit(SPEC, clock.now)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with (
        pytest.raises(DatabaseError, match=r"abq\.db.* is damaged.* restore a backup"),
        Database.open(path) as database,
    ):
        Jobs(database).list()


def test_a_path_that_cannot_be_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=f"{tmp_path}.* cannot be opened"):
        Database.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match=r"cannot be created.*ABQ_DATA_DIR"):
        Database.open(tmp_path / "file" / "abq.db")


def test_a_file_without_write_permission_is_refused_at_once() -> None:
    with readable_folder() as folder:
        path = folder / "abq.db"
        Database.open(path).close()
        path.chmod(0o444)
        with unprivileged(), pytest.raises(DatabaseError, match=r"cannot be written.*ABQ_DATA_DIR"):
            Database.open(path)


def test_a_folder_without_write_permission_is_refused_at_once() -> None:
    with readable_folder() as folder:
        path = folder / "abq.db"
        Database.open(path).close()
        path.chmod(0o666)
        folder.chmod(0o555)
        with unprivileged(), pytest.raises(DatabaseError, match="-journal"):
            Database.open(path)
        (folder / "abq.db-journal").unlink()
        with unprivileged(), pytest.raises(DatabaseError, match=r"cannot be written.*ABQ_DATA_DIR"):
            Database.open(path)
        with unprivileged(), pytest.raises(DatabaseError, match=r"cannot be created.*ABQ_DATA_DIR"):
            Database.open(folder / "new" / "abq.db")


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path, clock: Clock) -> None:
    with Database.open(tmp_path / "abq.db") as database:
        jobs = Jobs(database)
        job = jobs.submit(SPEC, clock.now)
        with database.reading() as session:
            pages = session.scalar(text("PRAGMA page_count"))
            session.execute(text(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(DatabaseError, match="disk is full"):
            jobs.submit({**SPEC, "note": "x" * 100_000}, clock.now)
        assert list(jobs.list()) == [job]
        assert value(database, "PRAGMA integrity_check") == "ok"
        database.close()
        jobs.submit({**SPEC, "note": "x" * 100_000}, clock.now)
        assert len(jobs.list()) == 2


def test_a_lock_held_too_long_is_reported(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with Database.open(tmp_path / "abq.db") as database, Database.open(tmp_path / "abq.db") as other:
        with (
            other.transaction() as session,
            pytest.raises(DatabaseError, match="another process has held its lock"),
        ):
            session.execute(text("SELECT 1"))
            Jobs(database).submit(SPEC, clock.now)
        Jobs(database).submit(SPEC, clock.now)


def test_a_reader_waits_for_a_commit_and_no_longer(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "abq.db"
    with Database.open(path) as database:
        Jobs(database).submit(SPEC, clock.now)
        committing = sqlite3.connect(path, isolation_level=None)
        committing.execute("BEGIN EXCLUSIVE")
        polls: list[float] = []

        def poll(seconds: float) -> None:
            polls.append(seconds)
            if len(polls) == 20:
                committing.execute("COMMIT")

        monkeypatch.setattr(sqlite.time, "sleep", poll)
        assert len(Jobs(database).list()) == 1
        assert polls == [sqlite.POLL_SECONDS] * 20
        monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
        committing.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseError, match="another process has held its lock"):
            Jobs(database).list()
        committing.close()


def test_a_database_of_a_newer_version_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "abq.db"
    with Database.open(path) as database, database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="newer version of ABQ Explorer"):
        Database.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("abq.db", "is not a database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////tmp/abq.db?mode=ro", "names no file"),
        ("postgresql+nosuch://me:secret@host/abq", "needs a driver"),
        ("mysql://me:secret@host/abq", "names a mysql database"),
        ("//me:secret@host/abq", "is not a database URL"),
    ],
)
def test_a_refused_url_is_shown_without_its_password(url: str, says: str) -> None:
    with pytest.raises(DatabaseError, match=says) as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)


def test_a_database_is_not_used_across_a_fork(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(DatabaseError, match="spawn"):
        Jobs(database).list()
