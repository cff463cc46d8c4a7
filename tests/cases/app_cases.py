"""Shared by the app's tests: settings in a folder, and running a job in this process."""

from collections.abc import Callable
from pathlib import Path

from abq_core.spec import CalibrationSpec
from app.clock import now
from app.jobs.calibration_job import EvaluationPlan, run_claimed
from app.jobs.lease import JobLease
from app.services import Services
from app.settings import Settings
from storage.jobs import Job

SpecMaker = Callable[..., CalibrationSpec]


def settings_in(folder: Path) -> Settings:
    return Settings.from_environment({"ABQ_DATA_DIR": str(folder), "ABQ_THREADS": "1", "ABQ_NICENESS": "0"})


def work_on(services: Services, job: Job) -> Job:
    """Run a queued job in this process, as a worker does."""
    claimed = services.storage.jobs.claim_next("test", now(), job_id=job.id)
    assert claimed is not None
    with JobLease(services.storage.jobs, claimed) as lease:
        run_claimed(services, lease, EvaluationPlan(4, 32))
    return services.jobs.get(job.id)
