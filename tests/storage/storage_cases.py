"""What the storage tests share: a spec, a clock, and the databases that the contract tests run on.

ABQ_TEST_POSTGRESQL_URL names an empty PostgreSQL database to run them on as well.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy

POSTGRESQL_URL = os.environ.get("ABQ_TEST_POSTGRESQL_URL")
SPEC = {"model": "builtin", "precision": "W4A4", "method": "abq", "segments": 32}


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'abq.db'}"


def postgresql_url(folder: Path) -> str:
    """The server's one database, emptied."""
    assert POSTGRESQL_URL
    engine = sqlalchemy.create_engine(POSTGRESQL_URL)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return POSTGRESQL_URL


BACKENDS: dict[str, Callable[[Path], str]] = {"sqlite": sqlite_url}
if POSTGRESQL_URL:
    BACKENDS["postgresql"] = postgresql_url


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def move(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now
