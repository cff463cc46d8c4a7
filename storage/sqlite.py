"""SQLite specifics: journal mode, BEGIN IMMEDIATE for writes, backup, and error messages."""

import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

from storage.errors import DatabaseError

BUSY_SECONDS = 30
JOURNAL_BYTES = 2**20  # a longer journal is truncated to this after its transaction
WRITE = "abq_write"  # execution option of an engine whose transactions may write
FIRST_READ = "SELECT 1 FROM sqlite_master LIMIT 1"
POLL_SECONDS = 0.001

ADVICE = {
    "SQLITE_FULL": "the disk is full. Nothing was written; free some space, then resume the job",
    "SQLITE_READONLY": "it cannot be written. Give this user write access to the file and its folder, or set "
    "ABQ_DATA_DIR to a folder that can be written",
    "SQLITE_CANTOPEN": "it cannot be opened or created. Check that its folder exists and can be written, or set "
    "ABQ_DATA_DIR to a folder that can",
    "SQLITE_NOTADB": "it is not a SQLite database. Move the file away, or name another one in ABQ_DATABASE_URL",
    "SQLITE_CORRUPT": "it is damaged. Move the file away and restore a backup",
    "SQLITE_BUSY": f"another process has held its lock for {BUSY_SECONDS} s. Try again, or end that process",
    "SQLITE_IOERR": "reading or writing failed. Check the disk, its free space, and that this user may write the file "
    "and the -journal or -wal file next to it",
}
ADVICE["SQLITE_PERM"] = ADVICE["SQLITE_READONLY"]
ADVICE["SQLITE_LOCKED"] = ADVICE["SQLITE_BUSY"]


def journal_mode(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> str:
    """WAL if this SQLite has the fix for the WAL-reset bug, else PERSIST.

    Fixed in 3.51.3, 3.50.7 and 3.44.6.
    PERSIST keeps the rollback journal file and clears its header: one disk sync less than truncating it.
    """
    fixed = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    return "WAL" if fixed else "PERSIST"


def make_folder(path: Path) -> None:
    """Create the folder of the database file. Raises DatabaseError if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"The folder {path.parent} of the database cannot be created ({error.strerror or error}). "
            "Set ABQ_DATA_DIR to a folder that can be written."
        ) from error


def make_engine(url: URL) -> Engine:
    """The engine for normal use.

    Foreign keys are enforced, connections pooled, and writes begin with BEGIN IMMEDIATE.
    """
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    _configure(engine, foreign_keys=True)
    return engine


def make_migration_engine(url: URL) -> Engine:
    """The engine for migrations.

    Foreign keys are off: rebuilding a table would delete the rows that refer to it.
    """
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, poolclass=NullPool)
    _configure(engine, foreign_keys=False)
    return engine


def probe_write(engine: Engine) -> None:
    """Write and roll back, to detect missing write access now instead of during a job."""
    with engine.execution_options(**{WRITE: True}).connect() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 1")
        connection.rollback()


def back_up(source: sqlite3.Connection, target: Path, replace: bool = False) -> None:
    """Copy a consistent snapshot of a database to a new file.

    Its integrity is checked; the file is synced, then renamed.

    replace: replace an existing regular file.

    Raises DatabaseError if the file exists or cannot be written, or if the database is damaged.
    """
    if os.path.lexists(target) and not (replace and stat.S_ISREG(target.lstat().st_mode)):
        raise DatabaseError(f"{target} already exists. Name a new file.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        copy = sqlite3.connect(temporary, isolation_level=None)
        try:
            source.backup(copy, sleep=POLL_SECONDS)
            copy.execute("PRAGMA journal_mode = DELETE").close()  # a single file, without a -wal
            result = copy.execute("PRAGMA integrity_check").fetchone()[0]
        finally:
            copy.close()
        if result != "ok":
            raise DatabaseError(f"The database is damaged ({result}); no backup was made. Restore an earlier one.")
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, target)
        if os.name != "nt":  # Windows cannot open folders, and its renames are durable without it
            _sync(target.parent, os.O_RDONLY)
    except (OSError, sqlite3.Error) as error:
        raise DatabaseError(
            f"The backup {target} could not be written ({error}). Check that its folder exists and has free space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def explain(error: BaseException) -> str | None:
    """The meaning of a SQLite error and what to do about it, or None for other errors."""
    name = getattr(error, "sqlite_errorname", None)
    if name is None:
        return None
    family = "_".join(str(name).split("_")[:2])
    return ADVICE.get(family, "SQLite failed. Try again, and please report the error if it persists")


def _configure(engine: Engine, foreign_keys: bool) -> None:
    mode = journal_mode()

    def connected(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # autocommit: `began` starts transactions, not the driver
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}").close()
        connection.execute("PRAGMA synchronous = FULL").close()
        if connection.execute("PRAGMA journal_mode").fetchone()[0].upper() != mode:
            connection.execute(f"PRAGMA journal_mode = {mode}").close()
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}").close()

    def began(connection: Connection) -> None:
        if connection.get_execution_options().get(WRITE, False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            _begin_reading(connection)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)


def _begin_reading(connection: Connection) -> None:
    """Begin and read once, which takes the shared lock.

    No later statement of the transaction waits.
    A writer blocks readers for the milliseconds of its commit. SQLite's busy handler sleeps up to 100 ms and then often
    meets the next commit; polling every millisecond finds the gap.
    """
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    deadline = time.monotonic() + BUSY_SECONDS
    connection.exec_driver_sql("BEGIN")
    driver.execute("PRAGMA busy_timeout = 0").close()
    try:
        while _is_busy(driver) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        connection.exec_driver_sql(FIRST_READ)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}").close()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_busy(driver: sqlite3.Connection) -> bool:
    """Whether a writer blocks readers.

    Any other error is left to the next statement, which raises it again.
    """
    try:
        driver.execute(FIRST_READ).close()
    except sqlite3.DatabaseError as error:
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    return False
