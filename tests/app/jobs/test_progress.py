"""The progress of a job, and the time left that it estimates."""

import pytest

from abq_core.events import BlockDone, Started, StepDone
from app.jobs.progress import WEIGHTS, Progress

STEP, PREPARATION, BLOCKS, STEPS = 0.1, 30.0, 30, 320


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Job:
    """A calibration whose blocks take PREPARATION seconds and STEPS steps of STEP seconds."""

    def __init__(self, pass_steps: int = 0, learns: bool = True) -> None:
        self.clock = Clock()
        self.progress = Progress(learns=learns, clock=self.clock)
        self.steps = STEPS if learns else 0
        self.progress.calibration_event(Started(BLOCKS, self.steps, pass_steps))

    def adopt(self, blocks: int) -> None:
        for block in range(blocks):
            self.clock.now += 0.5
            self.progress.calibration_event(BlockDone(block, 0.5, None, {}))

    def calibrate(self, block: int, steps: int | None = None) -> None:
        """One block, or its first steps."""
        self.clock.now += PREPARATION
        for step in range(1, (self.steps if steps is None else steps) + 1):
            self.clock.now += STEP
            self.progress.calibration_event(StepDone(block, step, self.steps))
        if steps is None:
            self.progress.calibration_event(BlockDone(block, 0.0, "hash", {}))


def minutes(seconds: float | None) -> float:
    assert seconds is not None
    return seconds / 60


def expected_minutes(blocks: float, total_blocks: int = BLOCKS) -> float:
    block = PREPARATION + STEPS * STEP
    return (blocks * block + total_blocks * block * (1 - WEIGHTS["calibrate"]) / WEIGHTS["calibrate"]) / 60


def test_nothing_is_estimated_before_something_was_timed() -> None:
    job = Job()
    assert job.progress.eta_seconds is None
    job.calibrate(0, steps=1)
    assert job.progress.eta_seconds is None, "the first step includes the preparation of the block"


def test_a_worker_that_takes_a_job_over_does_not_overestimate_the_time_left() -> None:
    job = Job()
    job.adopt(10)
    job.calibrate(10, steps=12)
    # Preparation is known only after a block; the first steps alone must not count it once per step.
    assert minutes(job.progress.eta_seconds) < expected_minutes(20)
    job.clock.now -= PREPARATION + 12 * STEP
    job.calibrate(10)
    assert minutes(job.progress.eta_seconds) == pytest.approx(expected_minutes(19), rel=0.02)


def test_the_time_left_counts_the_steps_of_the_present_block() -> None:
    job = Job()
    for block in range(3):
        job.calibrate(block)
    before = minutes(job.progress.eta_seconds)
    job.calibrate(3, steps=160)
    assert before - minutes(job.progress.eta_seconds) == pytest.approx(160 * STEP / 60, rel=0.05)


def test_steps_of_the_pass_are_timed_by_themselves() -> None:
    job = Job(pass_steps=100)
    for block in range(BLOCKS):
        job.calibrate(block)
    for step in range(1, 11):
        job.clock.now += 7.0
        job.progress.calibration_event(StepDone(BLOCKS, step, 100))
    total = BLOCKS * (PREPARATION + STEPS * STEP) + 100 * 7.0
    tail = total * (1 - WEIGHTS["calibrate"]) / WEIGHTS["calibrate"]
    assert job.progress.eta_seconds == pytest.approx(90 * 7.0 + tail, rel=0.05)


def test_without_learning_the_rate_of_the_blocks_counts() -> None:
    job = Job(learns=False)
    for block in range(15):
        job.calibrate(block)
    assert job.progress.eta_seconds is not None and job.progress.fraction == pytest.approx(0.125)


def test_after_the_blocks_the_rate_so_far_counts() -> None:
    job = Job()
    for block in range(BLOCKS):
        job.calibrate(block)
    spent = BLOCKS * (PREPARATION + STEPS * STEP)
    job.progress.diagnosing()
    assert job.progress.eta_seconds == pytest.approx(spent * 0.2 / 0.8, rel=0.01)
    job.progress.evaluating(1.0)
    assert job.progress.eta_seconds == pytest.approx(0.0)
