"""The guarantees of the job queue, one scenario per test."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from storage_cases import SPEC, Clock

from storage.database import Database
from storage.errors import (
    DatabaseError,
    JobNotFoundError,
    JobSpecError,
    JobStateError,
    LostLeaseError,
    QueueFullError,
    UnstorableValueError,
)
from storage.jobs import Job, Jobs
from storage.runs import Runs
from storage.schema import JobRow

A, B = "a" * 64, "b" * 64
WORKER_WRITES: dict[str, Callable[[Jobs, str, int, datetime], object]] = {
    "heartbeat": lambda jobs, id, epoch, now: jobs.heartbeat(id, epoch, now, timedelta(hours=1)),
    "progress": lambda jobs, id, epoch, now: jobs.progress(id, epoch, now, 0.9, "stale"),
    "record_block": lambda jobs, id, epoch, now: jobs.record_block(id, epoch, now, 7, A, 1.0, {"mse": 1.0}),
    "record_losses": lambda jobs, id, epoch, now: jobs.record_losses(id, epoch, now, 7, 0, {"total": 1.0}),
    "log": lambda jobs, id, epoch, now: jobs.log(id, epoch, now, "stale"),
    "finish": lambda jobs, id, epoch, now: jobs.finish(id, epoch, now),
    "fail": lambda jobs, id, epoch, now: jobs.fail(id, epoch, now, "stale"),
    "release": lambda jobs, id, epoch, now: jobs.release(id, epoch, now, "stale"),
    "end_cancelled": lambda jobs, id, epoch, now: jobs.end_cancelled(id, epoch, now),
}


def claim(jobs: Jobs, clock: Clock, worker: str = "w1") -> Job:
    job = jobs.claim_next(worker, clock.now)
    assert job is not None
    return job


def block(jobs: Jobs, job: Job, clock: Clock, number: int, sha256: str = A) -> None:
    jobs.record_block(job.id, job.epoch, clock.now, number, sha256, 2.5, {"cosine": 0.99})


def everything(jobs: Jobs, job: Job) -> tuple[object, ...]:
    return jobs.get(job.id), jobs.logs(job.id), jobs.losses(job.id), jobs.blocks(job.run_id)


def test_submit_creates_a_queued_job_and_its_run(jobs: Jobs, database: Database, clock: Clock) -> None:
    job = jobs.submit(SPEC, clock.now)
    assert (job.state, job.epoch, job.attempts, job.progress) == ("queued", 0, 0, 0)
    assert job.spec == SPEC
    assert job == jobs.get(job.id) == jobs.for_run(job.run_id)
    run = Runs(database).get(job.run_id)
    assert (run.model, run.precision, run.method, run.state) == ("builtin", "W4A4", "abq", "queued")
    assert run.spec == SPEC
    assert run.job_id == job.id


def test_submit_refuses_a_spec_without_a_model_and_leaves_no_run(jobs: Jobs, database: Database, clock: Clock) -> None:
    with pytest.raises(JobSpecError, match="model"):
        jobs.submit({"precision": "W4A4", "method": "abq"}, clock.now)
    with pytest.raises(UnstorableValueError, match=r"extra\.path"):
        jobs.submit({**SPEC, "extra": {"path": object()}}, clock.now)
    assert not jobs.list()
    assert not Runs(database).list()


def test_times_come_back_in_utc_and_a_time_without_zone_is_refused(jobs: Jobs, clock: Clock) -> None:
    job = jobs.submit(SPEC, clock.now)
    assert jobs.get(job.id).created_at == clock.now
    assert jobs.get(job.id).created_at.utcoffset() == timedelta(0)
    with pytest.raises(UnstorableValueError, match="time zone"):
        jobs.submit(SPEC, clock.now.replace(tzinfo=None))


def test_jobs_are_claimed_in_the_order_they_came(jobs: Jobs, clock: Clock) -> None:
    submitted = [jobs.submit(SPEC, clock.now).id for _ in range(5)]
    assert [claim(jobs, clock).id for _ in submitted] == submitted
    assert jobs.claim_next("w1", clock.now) is None


def test_a_claim_sets_owner_epoch_and_lease(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(SPEC, clock.now)
    clock.move(5)
    job = jobs.claim_next("w1", clock.now, timedelta(seconds=10))
    assert job is not None
    assert (job.state, job.worker, job.epoch, job.attempts) == ("running", "w1", 1, 1)
    assert job.started_at == job.heartbeat_at == clock.now
    assert job.lease_until == clock.now + timedelta(seconds=10)


def test_one_named_job_can_be_claimed(jobs: Jobs, clock: Clock) -> None:
    first, second = (jobs.submit(SPEC, clock.now).id for _ in range(2))
    assert (job := jobs.claim_next("w1", clock.now, job_id=second)) is not None
    assert job.id == second
    assert jobs.claim_next("w2", clock.now, job_id=second) is None
    assert claim(jobs, clock).id == first


def test_a_lease_expires_right_after_its_end(jobs: Jobs, running: Job, clock: Clock) -> None:
    clock.move(30)
    assert not jobs.requeue_expired(clock.now)
    clock.move(0.000001)
    (job,) = jobs.requeue_expired(clock.now)
    assert (job.id, job.state, job.worker, job.lease_until) == (running.id, "queued", None, None)
    assert not jobs.requeue_expired(clock.now)
    assert "w1 stopped answering" in jobs.logs(job.id)[-1].text


def test_a_heartbeat_extends_the_lease(jobs: Jobs, running: Job, clock: Clock) -> None:
    for _ in range(10):
        clock.move(29)
        assert jobs.heartbeat(running.id, running.epoch, clock.now, timedelta(seconds=30)) is False
        assert not jobs.requeue_expired(clock.now)
    assert jobs.get(running.id).heartbeat_at == clock.now
    assert jobs.get(running.id).progress_at == running.progress_at


def test_a_late_worker_keeps_a_job_that_was_not_requeued(jobs: Jobs, running: Job, clock: Clock) -> None:
    clock.move(3600)
    jobs.heartbeat(running.id, running.epoch, clock.now)
    assert not jobs.requeue_expired(clock.now)


def test_jobs_of_an_exited_worker_are_requeued_at_once(jobs: Jobs, running: Job, clock: Clock) -> None:
    jobs.submit(SPEC, clock.now)
    other = claim(jobs, clock, "w2")
    assert [job.id for job in jobs.requeue_worker("w1", clock.now)] == [running.id]
    assert jobs.get(running.id).state == "queued"
    assert jobs.get(other.id).state == "running"
    assert not jobs.requeue_worker("w1", clock.now)


@pytest.mark.parametrize("write", WORKER_WRITES.values(), ids=WORKER_WRITES)
@pytest.mark.parametrize("fate", ["requeued", "taken over", "cancelled", "finished", "deleted"])
def test_a_stale_owner_writes_nothing(
    jobs: Jobs,
    database: Database,
    running: Job,
    clock: Clock,
    fate: str,
    write: Callable[[Jobs, str, int, datetime], object],
) -> None:
    if fate == "finished":
        jobs.finish(running.id, running.epoch, clock.now)
    else:
        if fate == "cancelled":
            jobs.request_cancel(running.id, clock.now)
        jobs.requeue_expired(clock.move(31))
    if fate == "taken over":
        assert claim(jobs, clock, "w2").epoch == running.epoch + 1
    if fate == "deleted":
        Runs(database).delete(running.run_id)
        before = None
    else:
        before = everything(jobs, running)
    with pytest.raises(LostLeaseError, match=running.id):
        write(jobs, running.id, running.epoch, clock.move(1))
    assert before is None or everything(jobs, running) == before


def test_every_worker_write_works_for_the_owner(jobs: Jobs, clock: Clock) -> None:
    for write in WORKER_WRITES.values():
        jobs.submit(SPEC, clock.now)
        job = jobs.list()[0]
        owned = jobs.claim_next("w1", clock.now, job_id=job.id)
        assert owned is not None
        write(jobs, owned.id, owned.epoch, clock.move(1))
        assert jobs.get(job.id).heartbeat_at == clock.now


def test_recording_a_block_extends_the_lease(jobs: Jobs, running: Job, clock: Clock) -> None:
    jobs.progress(running.id, running.epoch, clock.now, 0.0, "block 0", blocks_total=6)
    clock.move(29)
    block(jobs, running, clock, 0)
    jobs.progress(running.id, running.epoch, clock.now, 0.25, "block 1", 12.5)
    job = jobs.get(running.id)
    assert (job.blocks_done, job.blocks_total, job.progress, job.message, job.eta_seconds) == (
        1,
        6,
        0.25,
        "block 1",
        12.5,
    )
    assert job.lease_until == clock.now + timedelta(seconds=30)
    (record,) = jobs.blocks(running.run_id)
    assert (record.block, record.sha256, record.seconds, record.distances) == (0, A, 2.5, {"cosine": 0.99})
    assert record.recorded_at == clock.now


def test_a_block_is_recorded_once_and_replaced_when_redone(jobs: Jobs, running: Job, clock: Clock) -> None:
    block(jobs, running, clock, 0)
    first = jobs.blocks(running.run_id)
    clock.move(1)
    jobs.record_block(running.id, running.epoch, clock.now, 0, A, 99.0, {"cosine": 0.0})
    assert jobs.blocks(running.run_id) == first
    jobs.record_block(running.id, running.epoch, clock.now, 0, B, 99.0, {"cosine": math.nan})
    (record,) = jobs.blocks(running.run_id)
    assert (record.sha256, record.seconds, record.recorded_at) == (B, 99.0, clock.now)
    assert math.isnan(record.distances["cosine"])
    assert jobs.get(running.id).blocks_done == 1


def test_a_block_never_shortens_a_lease(jobs: Jobs, running: Job, clock: Clock) -> None:
    jobs.heartbeat(running.id, running.epoch, clock.now, timedelta(hours=1))
    block(jobs, running, clock, 0)
    assert jobs.get(running.id).lease_until == clock.now + timedelta(hours=1)


def test_losses_are_ordered_and_a_redone_step_replaces_them(jobs: Jobs, running: Job, clock: Clock) -> None:
    for number, step, total in [(1, 0, 4.0), (0, 1, 2.0), (0, 0, 3.0), (1, 0, math.inf)]:
        jobs.record_losses(running.id, running.epoch, clock.now, number, step, {"total": total, "dlc": 1.0})
    assert [(row.block, row.step, row.terms["total"]) for row in jobs.losses(running.id)] == [
        (0, 0, 3.0),
        (0, 1, 2.0),
        (1, 0, math.inf),
    ]


def test_the_log_can_be_followed(jobs: Jobs, running: Job, clock: Clock) -> None:
    for text in ("one", "two", "<b>три</b>"):
        jobs.log(running.id, running.epoch, clock.now, text)
    lines = jobs.logs(running.id)
    assert [line.text for line in lines] == ["one", "two", "<b>три</b>"]
    assert jobs.logs(running.id, after=lines[0].id) == lines[1:]
    assert jobs.logs(running.id, limit=1) == lines[:1]


@pytest.mark.parametrize(("value", "stored"), [(-1.0, 0.0), (0.5, 0.5), (1.0000001, 1.0), (math.nan, 0.0)])
def test_progress_stays_in_its_range(jobs: Jobs, running: Job, clock: Clock, value: float, stored: float) -> None:
    jobs.progress(running.id, running.epoch, clock.move(1), value, "working", eta_seconds=3.0)
    job = jobs.get(running.id)
    assert (job.progress, job.message, job.eta_seconds, job.progress_at) == (stored, "working", 3.0, clock.now)


def test_finish_fail_and_end_cancelled_end_the_job(jobs: Jobs, clock: Clock) -> None:
    for state in ("succeeded", "failed", "cancelled"):
        jobs.submit(SPEC, clock.now)
        job = claim(jobs, clock)
        if state == "succeeded":
            ended = jobs.finish(job.id, job.epoch, clock.now)
            assert ended.progress == 1
        elif state == "failed":
            ended = jobs.fail(job.id, job.epoch, clock.now, "out of memory")
            assert ended.error == "out of memory"
            assert jobs.logs(job.id)[-1].text == "out of memory"
        else:
            ended = jobs.end_cancelled(job.id, job.epoch, clock.now)
        assert ended == jobs.get(job.id)
        assert (ended.state, ended.finished_at, ended.lease_until) == (state, clock.now, None)
    assert jobs.counts() == {"succeeded": 1, "failed": 1, "cancelled": 1}
    assert [job.state for job in jobs.list()] == ["cancelled", "failed", "succeeded"]
    assert [job.state for job in jobs.list("failed")] == ["failed"]
    assert len(jobs.list(limit=2)) == 2


def test_a_queue_has_room_for_all_new_jobs_or_takes_none(jobs: Jobs, clock: Clock) -> None:
    queued = jobs.submit_all([SPEC, SPEC], clock.now, max_queued=3)
    with pytest.raises(QueueFullError, match="2 jobs are queued, and the limit is 3: 2 more"):
        jobs.submit_all([SPEC, SPEC], clock.now, max_queued=3)
    assert [job.number for job in jobs.list()] == [queued[1].number, queued[0].number]
    jobs.request_cancel(queued[0].id, clock.now)
    jobs.submit_all([SPEC, SPEC], clock.now, max_queued=3)
    with pytest.raises(QueueFullError):
        jobs.resume(queued[0].id, clock.now, max_queued=3)
    with pytest.raises(JobSpecError):
        jobs.submit_all([SPEC, {"model": "m"}], clock.now)
    assert jobs.counts() == {"queued": 3, "cancelled": 1}


def test_cancel_of_a_queued_job_ends_it(jobs: Jobs, clock: Clock) -> None:
    job = jobs.request_cancel(jobs.submit(SPEC, clock.now).id, clock.move(1))
    assert (job.state, job.finished_at) == ("cancelled", clock.now)
    assert jobs.claim_next("w1", clock.now) is None


def test_cancel_of_a_running_job_reaches_its_worker(jobs: Jobs, running: Job, clock: Clock) -> None:
    job = jobs.request_cancel(running.id, clock.now)
    assert (job.state, job.cancel_requested) == ("running", True)
    assert jobs.heartbeat(running.id, running.epoch, clock.now) is True
    job = jobs.end_cancelled(running.id, running.epoch, clock.now)
    assert (job.state, job.cancel_requested) == ("cancelled", False)


def test_cancel_of_a_running_job_whose_worker_dies_ends_it(jobs: Jobs, running: Job, clock: Clock) -> None:
    jobs.request_cancel(running.id, clock.now)
    (job,) = jobs.requeue_expired(clock.move(31))
    assert (job.state, job.cancel_requested, job.finished_at) == ("cancelled", False, clock.now)


def test_a_late_cancel_changes_nothing(jobs: Jobs, running: Job, clock: Clock) -> None:
    jobs.request_cancel(running.id, clock.now)
    finished = jobs.finish(running.id, running.epoch, clock.now)
    assert (finished.state, finished.cancel_requested) == ("succeeded", False)
    for state in ("succeeded", "failed", "cancelled"):
        jobs.submit(SPEC, clock.now)
        job = claim(jobs, clock)
        if state == "succeeded":
            ended = jobs.finish(job.id, job.epoch, clock.now)
        elif state == "failed":
            ended = jobs.fail(job.id, job.epoch, clock.now, "no")
        else:
            ended = jobs.end_cancelled(job.id, job.epoch, clock.now)
        assert jobs.request_cancel(job.id, clock.move(1)) == ended


def test_a_job_that_kills_its_workers_fails_after_three_attempts(jobs: Jobs, clock: Clock) -> None:
    poison, other = (jobs.submit(SPEC, clock.now).id for _ in range(2))
    for attempt in (1, 2, 3):
        job = claim(jobs, clock)
        assert (job.id, job.epoch, job.attempts) == (poison, attempt, attempt)
        (job,) = jobs.requeue_expired(clock.move(31))
    assert job.state == "failed"
    assert job.error is not None and "3 times" in job.error
    assert claim(jobs, clock).id == other


def test_attempts_are_counted_from_the_last_new_block(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(SPEC, clock.now)
    for number in range(5):  # one new block per attempt
        block(jobs, claim(jobs, clock), clock, number)
        assert [job.state for job in jobs.requeue_expired(clock.move(31))] == ["queued"]
    for sha256, state in ((B, "queued"), (A, "queued"), (B, "failed")):  # the same block every time
        block(jobs, claim(jobs, clock), clock, 4, sha256)
        assert [job.state for job in jobs.requeue_expired(clock.move(31))] == [state]


def test_a_released_job_is_queued_any_number_of_times(jobs: Jobs, clock: Clock) -> None:
    jobs.submit(SPEC, clock.now)
    for _ in range(5):
        job = claim(jobs, clock)
        released = jobs.release(job.id, job.epoch, clock.now, "shutdown")
        assert (released.state, released.attempts) == ("queued", 0)
    job = claim(jobs, clock)
    jobs.request_cancel(job.id, clock.now)
    assert jobs.release(job.id, job.epoch, clock.now, "shutdown").state == "cancelled"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_resume_queues_again_and_keeps_the_blocks(jobs: Jobs, running: Job, clock: Clock, state: str) -> None:
    block(jobs, running, clock, 0)
    if state == "failed":
        jobs.fail(running.id, running.epoch, clock.now, "no")
    else:
        jobs.request_cancel(running.id, clock.now)
        jobs.end_cancelled(running.id, running.epoch, clock.now)
    job = jobs.resume(running.id, clock.move(60))
    assert (job.state, job.error, job.finished_at, job.cancel_requested, job.attempts) == (
        "queued",
        None,
        None,
        False,
        0,
    )
    assert len(jobs.blocks(running.run_id)) == job.blocks_done == 1
    again = claim(jobs, clock, "w2")
    assert (again.id, again.epoch, again.started_at) == (running.id, 2, running.started_at)


def test_resume_refuses_other_states(jobs: Jobs, running: Job, clock: Clock) -> None:
    with pytest.raises(JobStateError, match="running"):
        jobs.resume(running.id, clock.now)
    jobs.finish(running.id, running.epoch, clock.now)
    with pytest.raises(JobStateError, match="succeeded"):
        jobs.resume(running.id, clock.now)
    queued = jobs.submit(SPEC, clock.now)
    with pytest.raises(JobStateError, match="queued"):
        jobs.resume(queued.id, clock.now)


def test_unknown_jobs_are_named(jobs: Jobs, clock: Clock) -> None:
    asks: list[Callable[[], object]] = [
        lambda: jobs.get("j-0"),
        lambda: jobs.logs("j-0"),
        lambda: jobs.losses("j-0"),
        lambda: jobs.request_cancel("j-0", clock.now),
        lambda: jobs.resume("j-0", clock.now),
    ]
    for ask in asks:
        with pytest.raises(JobNotFoundError, match="'j-0'"):
            ask()


@pytest.mark.parametrize(
    "broken", [{"state": "lost"}, {"lease_until": None}, {"state": "succeeded"}, {"progress": 1.5}, {"attempts": -1}]
)
def test_the_database_itself_refuses_a_broken_job(
    database: Database, jobs: Jobs, running: Job, broken: dict[str, object]
) -> None:
    with pytest.raises(DatabaseError, match=r"contradict.*ck_jobs"), database.transaction() as session:
        row = session.get(JobRow, running.number)
        for name, value in broken.items():
            setattr(row, name, value)
    assert jobs.get(running.id) == running
