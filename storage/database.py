"""The database: opening and migrating it, transactions, and its errors as sentences."""

import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError, StatementError
from sqlalchemy.orm import Session

from storage import sqlite
from storage.errors import DatabaseError, StorageError
from storage.write_lock import FairWriteLock

MIGRATIONS = Path(__file__).parent / "migrations"
POSTGRESQL_MIGRATION_LOCK = 0x414251  # advisory lock key; every installation must use the same

logger = logging.getLogger(__name__)


class Database:
    """An open database at the newest schema.

    Open it in each process: it cannot be used after a fork.
    """

    def __init__(self, url: URL, engine: Engine) -> None:
        self.url = url
        self._engine = engine
        self._writing = engine.execution_options(**{sqlite.WRITE: True})
        self._write_lock = None if self.path is None else FairWriteLock(self.path)
        self._pid = os.getpid()
        self._writes, self._writes_lock = 0, threading.Lock()

    @classmethod
    def open(cls, location: str | Path) -> Self:
        """Open the database.

        Missing folder, file and tables are created; an older schema is migrated.
        location: a URL (sqlite:////folder/abq.db, postgresql+psycopg://user@host/name) or the path of a SQLite file.
        Raises DatabaseError if it cannot be opened or written, is not a database, or was written by a newer version.
        """
        url = _parse(location)
        with _readable_errors(url):
            if url.get_backend_name() == "sqlite":
                sqlite.make_folder(Path(url.database or ""))
                migration_engine, engine = sqlite.make_migration_engine(url), sqlite.make_engine(url)
                with FairWriteLock(Path(url.database or "")).held():
                    sqlite.probe_write(migration_engine)
                    _migrate(migration_engine)
                logger.info(
                    "SQLite %s, journal mode %s: %s", sqlite3.sqlite_version, sqlite.journal_mode(), url.database
                )
            else:
                engine = _make_engine(url)
                _migrate(engine)
        return cls(url, engine)

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None on a server."""
        return Path(self.url.database or "") if self.url.get_backend_name() == "sqlite" else None

    @property
    def writes(self) -> int:
        """Number of write transactions ended by this process.

        If it is unchanged, only other processes have written.
        """
        with self._writes_lock:
            return self._writes

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One write transaction: committed at the end, rolled back on any exception."""
        try:
            with self._hold_write_lock(), self._session(self._writing) as session:
                yield session
        finally:  # after an error too: a commit that reported failure may have taken effect
            with self._writes_lock:
                self._writes += 1

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One read-only transaction, which sees a single snapshot of the database."""
        with self._session(self._engine) as session:
            yield session

    def backup(self, target: Path, replace: bool = False) -> None:
        """Copy a snapshot of the database to a new file while others use it.

        The copy's integrity is checked.  replace: replace a regular file, though never the database itself.
        Raises DatabaseError if the file exists or cannot be written, or if the database is on a server.
        """
        if self.path is None:
            raise DatabaseError(f"{self.url} is on a server. Back it up with PostgreSQL's pg_dump.")
        if replace and target.exists() and target.samefile(self.path):
            raise DatabaseError(f"{target} is the database itself. Name another file.")
        with _readable_errors(self.url), self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            sqlite.back_up(driver, target, replace)

    def close(self) -> None:
        """Close the pooled connections.

        The database can be used again; connections are reopened on demand.
        """
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold_write_lock(self) -> AbstractContextManager[None]:
        return nullcontext() if self._write_lock is None else self._write_lock.held()

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        if os.getpid() != self._pid:
            raise DatabaseError(
                f"The database was opened by process {self._pid} and is used in its fork {os.getpid()}, which can "
                "damage it. Start processes with 'spawn' and open the database in each."
            )
        with _readable_errors(self.url), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session


def _parse(location: str | Path) -> URL:
    if isinstance(location, Path):
        url = URL.create("sqlite", database=str(location))
    else:
        try:
            url = make_url(location)
        except ArgumentError as error:
            raise DatabaseError(
                f"{_without_password(location)!r} is not a database URL. Use sqlite:////folder/abq.db or "
                "postgresql+psycopg://user@host/name."
            ) from error
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise DatabaseError(f"{url} names a {backend} database. Use SQLite or PostgreSQL.")
    if backend == "postgresql":
        return url
    if url.database in (None, "", ":memory:") or url.query:
        raise DatabaseError(
            f"{url} names no file that worker processes can share. Use sqlite:////folder/abq.db, without options."
        )
    try:
        path = Path(str(url.database)).expanduser().absolute()
    except RuntimeError as error:
        raise DatabaseError(f"{url} names the home folder of a user that does not exist. Use a full path.") from error
    return url.set(drivername="sqlite", database=str(path))


def _make_engine(url: URL) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise DatabaseError(
            f"{url} needs a driver that is not installed ({error}). Install psycopg and use postgresql+psycopg://, "
            "or use SQLite."
        ) from error


def _migrate(engine: Engine) -> None:
    """Migrate to the newest revision in one transaction.

    Other processes that migrate wait for it.
    """
    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.execution_options(**{sqlite.WRITE: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({POSTGRESQL_MIGRATION_LOCK})")
        config.attributes["connection"] = connection
        try:
            alembic.command.upgrade(config, "head")
        except alembic.util.CommandError as error:
            raise DatabaseError(
                f"{engine.url} was written by a newer version of ABQ Explorer ({error}). "
                "Update ABQ Explorer, or name another database in ABQ_DATABASE_URL."
            ) from error


@contextmanager
def _readable_errors(url: URL) -> Iterator[None]:
    """Turn SQLAlchemy errors into a DatabaseError whose message says what to do."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, StatementError) and error.orig else error
        if isinstance(cause, StorageError):
            raise cause from error
        name = url.database if url.get_backend_name() == "sqlite" else url
        if isinstance(error, IntegrityError):
            raise DatabaseError(
                f"The database {name} refused values that contradict each other; nothing was written. "
                f"Please report this ({_first_line(cause)})."
            ) from error
        advice = sqlite.explain(cause) or "it returned an error. Check that the server is running and reachable"
        raise DatabaseError(f"The database {name} cannot be used: {advice} ({_first_line(cause)}).") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", text)
