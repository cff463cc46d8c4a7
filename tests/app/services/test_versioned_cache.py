"""Cached reads.

Loaded once for concurrent readers, never older than promised, never modified.
"""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from app_cases import SpecMaker

from app.clock import now
from app.services import Services
from app.services.stored import STALE_SECONDS
from app.services.versioned_cache import MAX_ENTRIES, Version, VersionedCache
from storage.errors import JobNotFoundError

SUBMITS = """
import sys
from datetime import UTC, datetime
from storage.database import Database
from storage.jobs import Jobs
with Database.open(sys.argv[1]) as database:
    Jobs(database).submit({"model": "builtin", "precision": "W4A4", "method": "rtn"}, datetime.now(UTC))
"""


class Clock:
    """Replaces `time`: its seconds are set by the test."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of cache versions, stopped until a test advances it."""
    stopped = Clock()
    monkeypatch.setattr("app.services.stored.time", stopped)
    return stopped


class Slow:
    """Returns 1, 2, 3 ...; the first call waits for `go_on`."""

    def __init__(self) -> None:
        self.made = 0
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> int:
        self.made += 1
        made = self.made
        if made == 1:
            self.began.set()
            assert self.go_on.wait(60)
        return made


class CountedVersion:
    """A version that a test sets, and a count of the readers that have asked for it."""

    def __init__(self, moment: Version) -> None:
        self.moment = moment
        self._asked = threading.Semaphore(0)

    def __call__(self) -> Version:
        self._asked.release()
        return self.moment

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._asked.acquire(timeout=60)


def ask(pool: ThreadPoolExecutor, shared: VersionedCache[int], count: int) -> list[Future[int]]:
    return [pool.submit(shared.read) for _ in range(count)]


def test_concurrent_readers_share_one_load() -> None:
    make, moment = Slow(), CountedVersion((0, 0))
    shared = VersionedCache(make, moment)
    with ThreadPoolExecutor(8) as pool:
        answers = ask(pool, shared, 8)
        moment.wait(8 + 1)  # all readers have asked, and the loading one has read the version again
        make.go_on.set()
        assert [answer.result() for answer in answers] == [1] * 8
    assert make.made == 1


@pytest.mark.parametrize("later", [(1, 0), (0, 1)], ids=["a write has ended", "time has passed"])
def test_a_load_that_began_before_a_read_does_not_serve_it(later: Version) -> None:
    make, moment = Slow(), CountedVersion((0, 0))
    shared = VersionedCache(make, moment)
    with ThreadPoolExecutor(4) as pool:
        first = ask(pool, shared, 1)
        moment.wait(2)
        assert make.began.wait(60)
        moment.moment = later
        others = ask(pool, shared, 3)
        moment.wait(3)
        make.go_on.set()
        assert first[0].result() == 1
        assert [answer.result() for answer in others] == [2] * 3


def test_an_error_is_not_cached() -> None:
    answers: list[Callable[[], int]] = [lambda: 1 // 0, lambda: 2]
    shared = VersionedCache(lambda: answers.pop(0)(), lambda: (0, 0))
    with pytest.raises(ZeroDivisionError):
        shared.read()
    assert (shared.read(), shared.read()) == (2, 2)


def test_the_number_of_entries_is_bounded() -> None:
    made: list[str] = []
    shared = VersionedCache(made.append, lambda: (0, 0))
    questions = [str(number) for number in range(MAX_ENTRIES + 1)]
    for question in [*questions, questions[-1], questions[0]]:
        shared.read(question)
    assert made == [*questions, questions[0]]


def test_writes_of_this_process_are_visible_at_once(services: Services, tiny_spec: SpecMaker, clock: Clock) -> None:
    def states() -> list[str]:
        return list(services.jobs.frame()["state"])

    assert states() == [] and services.runs.newest_frame().empty
    job = services.jobs.submit(tiny_spec())
    assert states() == ["queued"] and list(services.runs.newest_frame()["run"]) == [job.run_id]
    services.jobs.cancel(job.id)
    assert states() == ["cancelled"] and list(services.runs.newest_frame()["state"]) == ["cancelled"]
    services.jobs.resume(job.id)
    assert states() == ["queued"] and "Resumed" in services.jobs.log(job.id)
    claimed = services.storage.jobs.claim_next("w", now())
    assert claimed is not None and states() == ["running"] and services.jobs.losses(job.id).empty
    services.storage.jobs.record_losses(job.id, claimed.epoch, now(), 0, 0, {"mse": 1.0})
    services.storage.jobs.log(job.id, claimed.epoch, now(), "It runs.")
    assert len(services.jobs.losses(job.id)) == 1 and services.jobs.log(job.id).endswith("It runs.")
    services.storage.jobs.finish(job.id, claimed.epoch, now())
    services.storage.measurements.add_evaluation(job.run_id, job.spec["model"], now(), {"perplexity": 12.5})
    services.runs.set_note(job.run_id, "mine")
    row = services.runs.newest_frame().iloc[0]
    assert (row["state"], row["perplexity"], row["note"]) == ("succeeded", 12.5, "mine")
    services.runs.delete(job.run_id)
    assert states() == [] and services.runs.newest_frame().empty
    with pytest.raises(JobNotFoundError):
        services.jobs.log(job.id)


def test_writes_of_another_process_are_visible_after_the_interval(services: Services, clock: Clock) -> None:
    assert services.jobs.frame().empty and services.runs.newest_frame().empty
    subprocess.run([sys.executable, "-c", SUBMITS, services.settings.database_url], check=True)
    assert services.jobs.frame().empty, "loaded again without a write and within the interval"
    clock.seconds = STALE_SECONDS
    assert len(services.jobs.frame()) == len(services.runs.newest_frame()) == 1


def test_modified_frames_do_not_reach_other_readers(services: Services, tiny_spec: SpecMaker, clock: Clock) -> None:
    job = services.jobs.submit(tiny_spec())
    claimed = services.storage.jobs.claim_next("w", now())
    assert claimed is not None
    services.storage.jobs.record_losses(job.id, claimed.epoch, now(), 0, 0, {"mse": 1.0})
    readers = [services.jobs.frame, services.runs.newest_frame, lambda: services.jobs.losses(job.id)]
    for read in readers:
        before, changed = read(), read()
        changed.iloc[0, 0] = changed.iloc[0, 0] * 2 + changed.iloc[0, 0]
        changed["more"] = 1
        assert read().equals(before)
