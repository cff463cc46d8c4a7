"""Fixtures of the storage tests: an open database on each backend, and a job that is running."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_cases import BACKENDS, SPEC, Clock

from storage.database import Database
from storage.jobs import Job, Jobs


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return BACKENDS[request.param](tmp_path)


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
