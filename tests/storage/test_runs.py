"""Runs and measurements: what is stored, in which order, and what a deleted run removes."""

import math

import pytest
from sqlalchemy import func, select
from storage_cases import SPEC, Clock

from storage.database import Database
from storage.errors import RunBusyError, RunNotFoundError
from storage.jobs import Job, Jobs
from storage.measurements import Measurements
from storage.runs import Runs
from storage.schema import Base

HOSTILE = "<script>alert(1)</script>'); DROP TABLE runs; -- \u202e $x$"


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


@pytest.fixture
def measurements(database: Database) -> Measurements:
    return Measurements(database)


def row_counts(database: Database) -> dict[str, int]:
    with database.reading() as session:
        return {
            name: session.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def test_runs_are_listed_newest_first_with_the_state_of_their_job(jobs: Jobs, runs: Runs, clock: Clock) -> None:
    made = [jobs.submit({**SPEC, "precision": precision}, clock.move(1)) for precision in ("W2A8", "W2*A8", "W4A4")]
    jobs.request_cancel(made[1].id, clock.now)
    assert [(run.precision, run.state) for run in runs.list()] == [
        ("W4A4", "queued"),
        ("W2*A8", "cancelled"),
        ("W2A8", "queued"),
    ]
    assert [run.id for run in runs.list("cancelled")] == [made[1].run_id]
    assert len(runs.list(limit=2)) == 2


def test_a_finished_run_shows_its_blocks_and_times(jobs: Jobs, runs: Runs, running: Job, clock: Clock) -> None:
    for number in (1, 0):
        jobs.record_block(running.id, running.epoch, clock.now, number, "a" * 64, 1.0, {"mse": 0.5})
    jobs.finish(running.id, running.epoch, clock.move(9))
    run = runs.get(running.run_id)
    assert (run.state, run.finished_at, run.blocks_done) == ("succeeded", clock.now, 2)
    assert [record.block for record in runs.blocks(run.id)] == [0, 1]


def test_a_note_is_stored_unchanged(jobs: Jobs, runs: Runs, clock: Clock) -> None:
    run_id = jobs.submit(SPEC, clock.now).run_id
    assert runs.set_note(run_id, HOSTILE).note == HOSTILE
    assert runs.get(run_id).note == HOSTILE


def test_delete_removes_everything_of_the_run_and_nothing_else(
    database: Database, jobs: Jobs, runs: Runs, measurements: Measurements, running: Job, clock: Clock
) -> None:
    jobs.record_block(running.id, running.epoch, clock.now, 0, "a" * 64, 1.0, {})
    jobs.record_losses(running.id, running.epoch, clock.now, 0, 0, {"total": 1.0})
    jobs.log(running.id, running.epoch, clock.now, "a line")
    jobs.finish(running.id, running.epoch, clock.now)
    measurements.add_evaluation(running.run_id, "builtin", clock.now, {"perplexity": 30.0})
    measurements.add_evaluation(None, "builtin", clock.now, {"perplexity": 25.0})
    measurements.add_throughput(clock.now, "cpu", {"median_us": 3.0})
    kept = jobs.submit(SPEC, clock.now)
    runs.delete(running.run_id)
    assert row_counts(database) == {
        "runs": 1,
        "jobs": 1,
        "blocks": 0,
        "losses": 0,
        "job_log": 0,
        "evaluations": 1,
        "throughput": 1,
        "votes": 0,
        "examples": 0,
    }
    assert [run.id for run in runs.list()] == [kept.run_id]


def test_a_run_whose_job_is_running_is_not_deleted(
    database: Database, jobs: Jobs, runs: Runs, running: Job, clock: Clock
) -> None:
    before = row_counts(database)
    with pytest.raises(RunBusyError, match=running.id):
        runs.delete(running.run_id)
    assert row_counts(database) == before
    jobs.requeue_expired(clock.move(31))
    runs.delete(running.run_id)
    assert jobs.claim_next("w1", clock.now) is None


def test_unknown_runs_are_named(jobs: Jobs, runs: Runs, measurements: Measurements, clock: Clock) -> None:
    for ask in (
        lambda: runs.get("r-0"),
        lambda: runs.blocks("r-0"),
        lambda: runs.delete("r-0"),
        lambda: runs.set_note("r-0", "note"),
        lambda: jobs.for_run("r-0"),
        lambda: jobs.blocks("r-0"),
        lambda: measurements.add_evaluation("r-0", "builtin", clock.now, {}),
    ):
        with pytest.raises(RunNotFoundError, match="'r-0'"):
            ask()


def test_evaluations_round_trip_newest_first(jobs: Jobs, measurements: Measurements, clock: Clock) -> None:
    run_id = jobs.submit(SPEC, clock.now).run_id
    values = {"perplexity": math.inf, "kl_mean": 0.25, "tokens": 16384, "data": "builtin", "ids": [1, 2]}
    first = measurements.add_evaluation(run_id, "builtin", clock.now, values)
    second = measurements.add_evaluation(None, "builtin", clock.move(1), {"perplexity": 25.0})
    assert measurements.evaluations() == [second, first]
    assert measurements.evaluations(limit=1) == [second]
    assert measurements.evaluations(run_id) == [first]
    assert first.values == values
    assert (second.run_id, second.created_at) == (None, clock.now)


def test_task_scores_are_separate_from_evaluations(
    jobs: Jobs, runs: Runs, measurements: Measurements, clock: Clock
) -> None:
    run_id = jobs.submit(SPEC, clock.now).run_id
    measured = measurements.add_evaluation(run_id, "builtin", clock.now, {"perplexity": 30.0})
    first = measurements.add_task_score(run_id, "builtin", clock.now, {"task": "piqa", "metrics": {"acc": 0.5}})
    second = measurements.add_task_score(None, "builtin", clock.move(1), {"task": "piqa", "metrics": {"acc": 0.6}})
    assert measurements.evaluations() == [measured] == measurements.evaluations(limit=1)
    assert measurements.task_scores() == [second, first]
    assert measurements.task_scores(run_id) == [first] and first.values["metrics"] == {"acc": 0.5}
    with pytest.raises(RunNotFoundError, match="'r-0'"):
        measurements.add_task_score("r-0", "builtin", clock.now, {})
    clock.move(1)
    runs.delete(run_id)
    assert measurements.task_scores() == [second]


def test_throughput_lists_the_newest_timings(measurements: Measurements, clock: Clock) -> None:
    for median in range(5):
        measurements.add_throughput(clock.move(1), "cpu", {"median_us": float(median)})
    timings = measurements.throughput(limit=2)
    assert [timing.values["median_us"] for timing in timings] == [4.0, 3.0]
    assert (timings[0].device, timings[0].created_at) == ("cpu", clock.now)
