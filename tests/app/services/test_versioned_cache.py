"""What visitors share: made once for all who ask at the same moment, never older than is promised, never changed."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from app_cases import SpecMaker

from app.clock import now
from app.services import Explorer
from app.services.versioned_cache import MOST_QUESTIONS, SHARED_SECONDS, Moment, Shared
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
    monkeypatch.setattr("app.services.explorer.time", stopped)
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

    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self._asked = threading.Semaphore(0)

    def __call__(self) -> Moment:
        self._asked.release()
        return self.moment

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._asked.acquire(timeout=60)


def ask(pool: ThreadPoolExecutor, shared: Shared[int], count: int) -> list[Future[int]]:
    return [pool.submit(shared.read) for _ in range(count)]


def test_all_who_ask_at_once_share_one_answer() -> None:
    make, moment = Slow(), Asked((0, 0))
    shared = Shared(make, moment)
    with ThreadPoolExecutor(8) as pool:
        answers = ask(pool, shared, 8)
        moment.wait(8 + 1)  # all have asked, and the one that makes it has looked at the clock again
        make.go_on.set()
        assert [answer.result() for answer in answers] == [1] * 8
    assert make.made == 1


@pytest.mark.parametrize("later", [(1, 0), (0, 1)], ids=["a write has ended", "time has passed"])
def test_an_answer_that_was_begun_before_one_asked_is_not_taken(later: Moment) -> None:
    make, moment = Slow(), Asked((0, 0))
    shared = Shared(make, moment)
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
    shared = Shared(lambda: answers.pop(0)(), lambda: (0, 0))
    with pytest.raises(ZeroDivisionError):
        shared.read()
    assert (shared.read(), shared.read()) == (2, 2)


def test_the_number_of_answers_that_are_kept_is_bounded() -> None:
    made: list[str] = []
    shared = Shared(made.append, lambda: (0, 0))
    questions = [str(number) for number in range(MOST_QUESTIONS + 1)]
    for question in [*questions, questions[-1], questions[0]]:
        shared.read(question)
    assert made == [*questions, questions[0]]


def test_own_writes_are_seen_at_once(explorer: Explorer, tiny_spec: SpecMaker, clock: Clock) -> None:
    def states() -> list[str]:
        return list(explorer.jobs_frame()["state"])

    assert states() == [] and explorer.newest_runs_frame().empty
    job = explorer.submit(tiny_spec())
    assert states() == ["queued"] and list(explorer.newest_runs_frame()["run"]) == [job.run_id]
    explorer.cancel(job.id)
    assert states() == ["cancelled"] and list(explorer.newest_runs_frame()["state"]) == ["cancelled"]
    explorer.resume(job.id)
    assert states() == ["queued"] and "Resumed" in explorer.logs(job.id)
    claimed = explorer.jobs.claim_next("w", now())
    assert claimed is not None and states() == ["running"] and explorer.losses_frame(job.id).empty
    explorer.jobs.record_losses(job.id, claimed.epoch, now(), 0, 0, {"mse": 1.0})
    explorer.jobs.log(job.id, claimed.epoch, now(), "It runs.")
    assert len(explorer.losses_frame(job.id)) == 1 and explorer.logs(job.id).endswith("It runs.")
    explorer.jobs.finish(job.id, claimed.epoch, now())
    explorer.measurements.add_evaluation(job.run_id, job.spec["model"], now(), {"perplexity": 12.5})
    explorer.set_note(job.run_id, "mine")
    row = explorer.newest_runs_frame().iloc[0]
    assert (row["state"], row["perplexity"], row["note"]) == ("succeeded", 12.5, "mine")
    explorer.delete_run(job.run_id)
    assert states() == [] and explorer.newest_runs_frame().empty
    with pytest.raises(JobNotFoundError):
        explorer.logs(job.id)


def test_what_another_process_wrote_is_seen_in_time(explorer: Explorer, clock: Clock) -> None:
    assert explorer.jobs_frame().empty and explorer.newest_runs_frame().empty
    subprocess.run([sys.executable, "-c", SUBMITS, explorer.settings.database_url], check=True)
    assert explorer.jobs_frame().empty, "it was made anew although nobody wrote here and no time has passed"
    clock.seconds = SHARED_SECONDS
    assert len(explorer.jobs_frame()) == len(explorer.newest_runs_frame()) == 1


def test_nobody_reads_what_another_reader_changed(explorer: Explorer, tiny_spec: SpecMaker, clock: Clock) -> None:
    job = explorer.submit(tiny_spec())
    claimed = explorer.jobs.claim_next("w", now())
    assert claimed is not None
    explorer.jobs.record_losses(job.id, claimed.epoch, now(), 0, 0, {"mse": 1.0})
    readers = [explorer.jobs_frame, explorer.newest_runs_frame, lambda: explorer.losses_frame(job.id)]
    for read in readers:
        before, changed = read(), read()
        changed.iloc[0, 0] = changed.iloc[0, 0] * 2 + changed.iloc[0, 0]
        changed["more"] = 1
        assert read().equals(before)
