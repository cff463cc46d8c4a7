"""What visitors share: made once for all who ask at the same moment, never older than is promised, never changed."""

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
    """Stands for `time`: its seconds are those that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of what is shared; it stands still until a test sets it."""
    stopped = Clock()
    monkeypatch.setattr("app.services.stored.time", stopped)
    return stopped


class Slow:
    """Makes 1, 2, 3 ...; the first begins only to wait until it may go on."""

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


class Asked:
    """The moment of all who ask, and an event for when so many have asked."""

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


def test_all_who_ask_at_once_share_one_answer() -> None:
    make, moment = Slow(), Asked((0, 0))
    shared = VersionedCache(make, moment)
    with ThreadPoolExecutor(8) as pool:
        answers = ask(pool, shared, 8)
        moment.wait(8 + 1)  # all have asked, and the one that makes it has looked at the clock again
        make.go_on.set()
        assert [answer.result() for answer in answers] == [1] * 8
    assert make.made == 1


@pytest.mark.parametrize("later", [(1, 0), (0, 1)], ids=["a write has ended", "time has passed"])
def test_an_answer_that_was_begun_before_one_asked_is_not_taken(later: Version) -> None:
    make, moment = Slow(), Asked((0, 0))
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


def test_an_error_is_not_kept() -> None:
    answers: list[Callable[[], int]] = [lambda: 1 // 0, lambda: 2]
    shared = VersionedCache(lambda: answers.pop(0)(), lambda: (0, 0))
    with pytest.raises(ZeroDivisionError):
        shared.read()
    assert (shared.read(), shared.read()) == (2, 2)


def test_the_number_of_answers_that_are_kept_is_bounded() -> None:
    made: list[str] = []
    shared = VersionedCache(made.append, lambda: (0, 0))
    questions = [str(number) for number in range(MAX_ENTRIES + 1)]
    for question in [*questions, questions[-1], questions[0]]:
        shared.read(question)
    assert made == [*questions, questions[0]]


def test_own_writes_are_seen_at_once(services: Services, tiny_spec: SpecMaker, clock: Clock) -> None:
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


def test_what_another_process_wrote_is_seen_in_time(services: Services, clock: Clock) -> None:
    assert services.jobs.frame().empty and services.runs.newest_frame().empty
    subprocess.run([sys.executable, "-c", SUBMITS, services.settings.database_url], check=True)
    assert services.jobs.frame().empty, "it was made anew although nobody wrote here and no time has passed"
    clock.seconds = STALE_SECONDS
    assert len(services.jobs.frame()) == len(services.runs.newest_frame()) == 1


def test_nobody_reads_what_another_reader_changed(services: Services, tiny_spec: SpecMaker, clock: Clock) -> None:
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
