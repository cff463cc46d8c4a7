"""Fixtures of the storage tests.

An open database on each backend, and a job that is running.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import postgresql_server
import pytest
from filelock import FileLock
from storage_cases import SPEC, Clock, sqlite_url

from storage.database import Database
from storage.jobs import Job, Jobs

GIVEN = os.environ.get("ABQ_TEST_POSTGRESQL_URL")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL database: the one named by ABQ_TEST_POSTGRESQL_URL, which is emptied, or a temporary server."""
    programs = postgresql_server.binaries()
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    if GIVEN:
        yield GIVEN
    elif programs is None:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    else:
        with postgresql_server.server(programs) as url:
            yield url


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """The database for one test. Parallel test processes take turns using a named one."""
    if GIVEN:
        with FileLock(Path(tempfile.gettempdir()) / "abq-test-postgresql.lock"):
            yield postgresql
    else:
        yield postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database on each backend."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    url: str = request.getfixturevalue("postgresql_url")
    postgresql_server.empty(url)
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database.open(url) as database:
        yield database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(database: Database) -> Jobs:
    return Jobs(database)


@pytest.fixture
def running(jobs: Jobs, clock: Clock) -> Job:
    """A job that worker w1 has claimed for 30 s."""
    jobs.submit(SPEC, clock.now)
    job = jobs.claim_next("w1", clock.now)
    assert job is not None
    return job
