"""Examples: added to a new database once, in no queue, deleted for good."""

from dataclasses import replace

import pytest
from storage_cases import SPEC, Clock

from storage.database import Database
from storage.errors import RunNotFoundError
from storage.examples import Example, ExampleCounts, Examples
from storage.history import LossRecord
from storage.jobs import Jobs
from storage.measurements import Measurements
from storage.runs import BlockRecord, Runs


def example(run_id: str, clock: Clock) -> Example:
    started, finished = clock.now, clock.move(60)
    return Example(
        run_id=run_id,
        spec=SPEC,
        started_at=started,
        finished_at=finished,
        log="Made elsewhere.",
        blocks=[BlockRecord(block, f"{block}" * 64, 1.5, {"cosine": 0.9}, finished) for block in range(2)],
        losses=[LossRecord(0, 3, {"dlc": 0.5}, finished)],
        evaluation={"perplexity": 12.0},
        baseline={"perplexity": 10.0},
    )


@pytest.fixture
def examples(database: Database, clock: Clock) -> Examples:
    examples = Examples(database)
    assert examples.are_expected()
    assert examples.add_all([example("r-0000000001", clock), example("r-0000000002", clock)])
    return examples


def test_an_example_is_a_finished_run_in_no_queue(examples: Examples, database: Database) -> None:
    runs, jobs, measurements = Runs(database), Jobs(database), Measurements(database)
    assert [(run.id, run.example, run.state, run.blocks_done) for run in runs.list()] == [
        ("r-0000000002", True, "succeeded", 2),
        ("r-0000000001", True, "succeeded", 2),
    ]
    run = runs.get("r-0000000001")
    assert [block.sha256[0] for block in runs.blocks(run.id)] == ["0", "1"]
    assert [loss.terms for loss in jobs.losses(run.job_id)] == [{"dlc": 0.5}]
    assert [line.text for line in jobs.logs(run.job_id)] == ["Made elsewhere."]
    assert [record.values["perplexity"] for record in measurements.evaluations(run.id)] == [12.0]
    assert jobs.list() == [] and jobs.list("succeeded") == [] and jobs.counts() == {}
    assert runs.list(examples=False) == []


def test_their_baseline_is_no_measurement_of_this_installation(examples: Examples, database: Database) -> None:
    measurements = Measurements(database)
    assert all(record.run_id is not None for record in measurements.evaluations())
    assert [record.values["perplexity"] for record in measurements.example_baselines()] == [10.0, 10.0]
    examples.hide(True)
    assert measurements.example_baselines() == []


def test_a_deleted_example_does_not_come_back(examples: Examples, database: Database, clock: Clock) -> None:
    runs = Runs(database)
    for run_id in ("r-0000000001", "r-0000000002"):
        assert not examples.are_expected() and not examples.add_all([example("r-0000000003", clock)])
        runs.delete(run_id)
        with pytest.raises(RunNotFoundError):
            runs.get(run_id)
    assert examples.counts() == ExampleCounts(0, 0)
    assert not examples.are_expected() and not examples.add_all([example("r-0000000003", clock)])


def test_examples_hide_and_return_together(examples: Examples, database: Database) -> None:
    assert examples.counts() == ExampleCounts(2, 0)
    examples.hide(True)
    assert examples.counts() == ExampleCounts(2, 2) and all(run.hidden for run in Runs(database).list())
    examples.hide(False)
    assert examples.counts() == ExampleCounts(2, 0) and not any(run.hidden for run in Runs(database).list())


def test_a_run_ends_the_expectation_and_is_no_example(database: Database, clock: Clock) -> None:
    own = Jobs(database).submit(SPEC, clock.now)
    examples = Examples(database)
    assert not examples.are_expected()
    assert examples.add_all([example("r-0000000001", clock)])  # the run was queued while the files were written
    assert {run.id: run.example for run in Runs(database).list()} == {own.run_id: False, "r-0000000001": True}
    assert [run.id for run in Runs(database).list(examples=False)] == [own.run_id]
    assert [job.run_id for job in Jobs(database).list()] == [own.run_id]


def test_all_examples_are_added_or_none(database: Database, clock: Clock) -> None:
    examples, good = Examples(database), example("r-0000000001", clock)
    with pytest.raises(KeyError):
        examples.add_all([good, replace(good, run_id="r-0000000002", spec={})])
    assert examples.are_expected() and Runs(database).list() == []
