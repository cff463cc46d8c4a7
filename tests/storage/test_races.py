"""Writes at the same moment: finish and cancel of one job, and two submits for the last place in the queue."""

import contextlib
import threading

from sqlalchemy import Engine, event
from storage_cases import SPEC, Clock

from storage.database import Database
from storage.errors import QueueFullError
from storage.jobs import Jobs


def test_a_simultaneous_cancel_and_finish_leave_one_final_state(url: str, clock: Clock) -> None:
    with Database.open(url) as one, Database.open(url) as two:
        worker, person = Jobs(one), Jobs(two)
        for _ in range(8):
            worker.submit(SPEC, clock.now)
            job = worker.claim_next("w", clock.now)
            assert job is not None
            together = threading.Barrier(2)

            def work(job_id: str = job.id, epoch: int = job.epoch, together: threading.Barrier = together) -> None:
                together.wait()
                cancelled = worker.heartbeat(job_id, epoch, clock.now)
                (worker.end_cancelled if cancelled else worker.finish)(job_id, epoch, clock.now)

            thread = threading.Thread(target=work)
            thread.start()
            together.wait()
            person.request_cancel(job.id, clock.now)
            thread.join()
            found = worker.get(job.id)
            assert found.state in ("succeeded", "cancelled") and found.finished_at and not found.cancel_requested
            person.request_cancel(job.id, clock.now)
            assert worker.get(job.id) == found and worker.claim_next("w", clock.now) is None


def test_two_submits_do_not_both_take_the_last_place(url: str, clock: Clock) -> None:
    both_counted, outcomes = threading.Barrier(2), []

    def wait_for_the_other(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "count(" in statement:
            with contextlib.suppress(threading.BrokenBarrierError):  # the other one waits for the lock
                both_counted.wait(0.5)

    def submit() -> None:
        with Database.open(url) as database:
            try:
                outcomes.append(Jobs(database).submit(SPEC, clock.now, max_queued=1).state)
            except QueueFullError:
                outcomes.append("refused")

    Database.open(url).close()
    threads = [threading.Thread(target=submit) for _ in range(2)]
    event.listen(Engine, "after_cursor_execute", wait_for_the_other)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        event.remove(Engine, "after_cursor_execute", wait_for_the_other)
    with Database.open(url) as database:
        assert Jobs(database).counts() == {"queued": 1} and sorted(outcomes) == ["queued", "refused"]
