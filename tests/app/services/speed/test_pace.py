"""The pace of calibrations on this machine, from its finished jobs."""

from datetime import UTC, datetime, timedelta

import pytest

from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.services import Services
from storage.jobs import Job

W4A4 = Precision.parse("W4A4")
START = datetime(2026, 1, 1, tzinfo=UTC)


def finish(
    services: Services,
    slower: float,
    *,
    device: str = "cpu",
    adopted: bool = False,
    claims: int = 1,
    model: str = "builtin",
) -> Job:
    """A finished job that took `slower` times the estimate."""
    spec = CalibrationSpec(model, W4A4, device=device)
    seconds = slower * services.models.estimate_calibration(CalibrationSpec("builtin", W4A4)).seconds
    jobs = services.storage.jobs
    job = jobs.submit(spec.to_dict(), START)
    start = START
    for claim in range(claims):
        claimed = jobs.claim_next("worker", start, job_id=job.id)
        assert claimed is not None
        if claim + 1 < claims:
            jobs.release(job.id, claimed.epoch, start, "stopped")
    jobs.record_block(job.id, claimed.epoch, start, 0, "hash", 0.0 if adopted else 1.0, {})
    return jobs.finish(job.id, claimed.epoch, start + timedelta(seconds=seconds))


def expected(services: Services, device: str = "cpu") -> float | None:
    estimate = services.models.estimate_calibration(CalibrationSpec("builtin", W4A4, device=device))
    return None if estimate.expected_seconds is None else estimate.expected_seconds / estimate.seconds


def test_an_estimate_that_was_wrong_corrects_the_next_one(services: Services) -> None:
    assert expected(services) == 1.0
    finish(services, 3.0)
    assert expected(services) == pytest.approx(3.0)
    for slower in (0.5, 0.6, 0.7):
        finish(services, slower)
    assert expected(services) == pytest.approx(0.65), "the median of the last jobs"


def test_an_accelerator_has_no_minutes_before_a_job_was_timed_there(services: Services) -> None:
    finish(services, 2.0)
    assert expected(services, "cuda") is None
    finish(services, 0.05, device="cuda")
    assert expected(services, "cuda") == pytest.approx(0.05)
    assert expected(services) == pytest.approx(2.0)


def test_jobs_that_did_not_do_all_the_work_do_not_count(services: Services) -> None:
    finish(services, 0.1, adopted=True)
    finish(services, 9.0, claims=2)
    finish(services, 9.0, model="/no/such/model")
    assert expected(services) == 1.0
