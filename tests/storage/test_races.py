"""Two writes at the same moment: a worker finishes a job while a person cancels it."""

import threading

from storage_cases import SPEC, Clock

from storage.database import Database
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
