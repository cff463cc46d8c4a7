"""Jobs: submit a calibration; cancel, resume and list jobs of all kinds."""

import dataclasses
from collections.abc import Sequence

import pandas

from abq_core.spec import CalibrationSpec
from abq_core.text.sources import check_source
from app.clock import now
from app.services import dataframes
from app.services.local_path import local_path
from app.services.models import ModelService
from app.services.sources import Sources
from app.services.stored import Storage
from app.services.versioned_cache import VersionedCache
from app.settings import Settings
from storage.jobs import Job
from storage.run_ids import means_run

MAX_LISTED = 100_000  # jobs, and lines of a log
RECENT = 100  # jobs on the page


class JobService:
    """The queue of calibrations.

    Reads are cached: writes of other processes show after STALE_SECONDS.
    """

    def __init__(self, settings: Settings, storage: Storage, models: ModelService, sources: Sources) -> None:
        self._settings, self._jobs, self._models, self._sources = settings, storage.jobs, models, sources
        self._frame = VersionedCache(
            lambda: dataframes.jobs_frame(self._jobs.list(limit=RECENT), now()), storage.version
        )
        self._losses = VersionedCache(lambda job: dataframes.losses_frame(self._jobs.losses(job)), storage.version)
        self._log = VersionedCache(
            lambda job: dataframes.log_text(self._jobs.logs(job, limit=MAX_LISTED)), storage.version
        )

    def submit(
        self,
        spec: CalibrationSpec,
        account: str | None = None,
        max_queued: int | None = None,
        *,
        on_cluster: bool = False,
    ) -> Job:
        """Check that the calibration can run, then queue it. Raises what `check` raises, and QueueFullError.

        account: the account of the page that asks for it, None without a login and for the command line.
        max_queued: see `storage.jobs.Jobs.submit`.  on_cluster: as for `check`.
        """
        return self.submit_all([spec], account, max_queued, on_cluster=on_cluster)[0]

    def submit_all(
        self,
        specs: Sequence[CalibrationSpec],
        account: str | None = None,
        max_queued: int | None = None,
        *,
        on_cluster: bool = False,
        resumed: Sequence[str] = (),
    ) -> Sequence[Job]:
        """Queue several calibrations, or none if one of them cannot run. As `submit`.

        resumed: ids of failed or cancelled jobs that are queued again with them. Returns the new jobs. Also raises
        JobStateError, JobNotFoundError for one of `resumed`.
        """
        checked = []
        for spec in specs:
            self._sources.check_text(spec.data, account)
            model = self._sources.stored_model(spec.model)
            precision = self._models.resolved(model, spec.precision)
            checked.append(dataclasses.replace(spec, model=model, precision=precision, data=local_path(spec.data)))
            self.check(checked[-1], on_cluster, account)
        rows = [spec.to_dict() for spec in checked]
        return self._jobs.submit_all(rows, now(), account=account, max_queued=max_queued, resumed=resumed)

    def check(self, spec: CalibrationSpec, on_cluster: bool = False, account: str | None = None) -> None:
        """Refuse a calibration that cannot run.

        on_cluster: the nodes of a cluster have the device, not this machine.  account: as for `submit`.
        Raises ModelError, EstimateError, DataError, ServiceError.
        """
        from abq_core.calibration.rotation import check_rotation
        from abq_core.models import devices
        from abq_core.planning import preflight
        from app.services import free_resources

        self._sources.check_text(spec.data, account)
        devices.check_name(spec.device)
        if not on_cluster:
            devices.usable_device(spec.device)
        devices.usable_device(self._settings.device)
        check_source(spec.data)
        estimate = self._models.estimate_calibration(spec)
        check_rotation(spec, estimate.shape.family)
        preflight.check_seq_len(spec, estimate.shape)
        estimate.refuse(free_resources.available(self._settings.data_dir, spec.device, self._settings.device))
        preflight.check_model(estimate.shape)
        preflight.check_text(spec)

    def get(self, job_or_run: str) -> Job:
        """A job by its id, or the newest job of a run by the run's id.

        Raises JobNotFoundError, RunNotFoundError.
        """
        text = job_or_run.strip()
        return self._jobs.for_run(text) if means_run(text) else self._jobs.get(text)

    def cancel(self, job_or_run: str) -> Job:
        """Ask a running job to stop at its next step; cancel a queued one at once."""
        return self._jobs.request_cancel(self.get(job_or_run).id, now())

    def resume(self, job_or_run: str, max_queued: int | None = None) -> Job:
        """Queue a failed or cancelled job again; it continues after its last finished block.

        Raises JobStateError, QueueFullError.
        """
        return self._jobs.resume(self.get(job_or_run).id, now(), max_queued)

    def texts_in_use(self) -> set[str]:
        """The sources of text of all queued and running jobs."""
        jobs = (job for state in ("queued", "running") for job in self._jobs.list(state, limit=MAX_LISTED))
        return {str(job.spec.get("data")) for job in jobs}

    def frame(self) -> pandas.DataFrame:
        """One row for each of the RECENT newest jobs, newest first. Cached."""
        return self._frame.read().copy()

    def newest(self, limit: int) -> pandas.DataFrame:
        """One row for each of the `limit` newest jobs, at most MAX_LISTED. Not cached."""
        return dataframes.jobs_frame(self._jobs.list(limit=min(limit, MAX_LISTED)), now())

    def log(self, job_or_run: str) -> str:
        """The log of a job, one line per entry. Cached."""
        return self._log.read(self.get(job_or_run).id)

    def losses(self, job_or_run: str) -> pandas.DataFrame:
        """Losses of a job so far: block, epoch, term, value. Cached."""
        return self._losses.read(self.get(job_or_run).id).copy()
