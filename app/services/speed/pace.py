"""How fast this installation calibrates, relative to the cost model."""

from collections.abc import Callable
from statistics import median

from abq_core.spec import CalibrationSpec
from app.services.errors import ServiceError
from app.services.stored import Storage
from app.services.versioned_cache import VersionedCache
from storage.jobs import Job

JOBS = 5  # the newest ones that count
_LISTED = 50


class Pace:
    """The ratio of measured to estimated seconds of the newest finished jobs.

    estimated: the seconds of the cost model for a calibration.
    """

    def __init__(self, storage: Storage, estimated: Callable[[CalibrationSpec], float]) -> None:
        self._jobs, self._estimated = storage.jobs, estimated
        self._ratios = VersionedCache(self._read, storage.version)

    def ratio(self, device: str) -> float | None:
        """The median ratio of jobs on this device; None if none was finished there."""
        return self._ratios.read(device)

    def _read(self, device: str) -> float | None:
        ratios: list[float] = []
        for job in self._jobs.list("succeeded", _LISTED):
            if job.spec.get("device") == device and self._did_everything(job):
                ratios += self._ratio(job)
            if len(ratios) == JOBS:
                break
        return median(ratios) if ratios else None

    def _did_everything(self, job: Job) -> bool:
        """True if one worker made every block of the job: no second claim, no adopted block."""
        return job.epoch == 1 and all(block.seconds > 0 for block in self._jobs.blocks(job.run_id))

    def _ratio(self, job: Job) -> list[float]:
        """One ratio; none if the calibration of the job or its model can no longer be read."""
        assert job.started_at is not None and job.finished_at is not None
        measured = (job.finished_at - job.started_at).total_seconds()
        try:
            return [measured / self._estimated(CalibrationSpec.from_dict(job.spec))]
        except (ValueError, ServiceError):
            return []
