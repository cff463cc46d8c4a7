"""Sweeps as jobs: which calibrations already have a run, and queueing those that have none."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from abq_core.spec import CalibrationSpec
from app.services.jobs import JobService
from app.services.local_path import local_path
from app.services.models import ModelService
from app.services.sources import Sources
from storage.jobs import Job
from storage.runs import Run, Runs

if TYPE_CHECKING:
    from abq_core.planning.estimate import Estimate


@dataclass(frozen=True)
class PlannedCalibration:
    """One calibration of a sweep. run: the newest run with an equal spec, or None; never an example."""

    spec: CalibrationSpec
    run: Run | None
    estimate: "Estimate"

    @property
    def state(self) -> str:
        """State of the run's newest job, or "new"."""
        return "new" if self.run is None else self.run.state

    @property
    def is_pending(self) -> bool:
        """True if it has no run, or its job failed or was cancelled."""
        return self.state in ("new", "failed", "cancelled")


class SweepService:
    """Plans and queues the calibrations of a sweep."""

    def __init__(self, runs: Runs, models: ModelService, jobs: JobService, sources: Sources) -> None:
        self._runs, self._models, self._jobs, self._sources = runs, models, jobs, sources

    def plan(self, specs: Sequence[CalibrationSpec], account: str | None = None) -> list[PlannedCalibration]:
        """The cost of each calibration and the run that it already has. Raises ModelError, ServiceError.

        Equal calibrations are planned once.  account: of the page's visitor who names the texts.
        """
        for spec in specs:
            self._sources.check_text(spec.data, account)
        models = {spec.model: self._sources.stored_model(spec.model) for spec in specs}
        named = [
            replace(
                spec,
                model=models[spec.model],
                precision=self._models.resolved(models[spec.model], spec.precision),
                data=local_path(spec.data),
            )
            for spec in specs
        ]
        specs = list(dict.fromkeys(named))  # two notations of one precision, such as W4A8h8 and W4A8h8e8, may be equal
        runs: dict[CalibrationSpec, Run] = {}
        for run in self._runs.list(examples=False):  # newest first
            with contextlib.suppress(ValueError):  # written by a version with other fields: equals no current spec
                runs.setdefault(CalibrationSpec.from_dict(run.spec), run)
        return [PlannedCalibration(spec, runs.get(spec), self._models.estimate_calibration(spec)) for spec in specs]

    def queue(
        self,
        planned: Sequence[PlannedCalibration],
        account: str | None = None,
        max_queued: int | None = None,
        *,
        on_cluster: bool = False,
    ) -> list[str]:
        """Queue the pending calibrations, new or resumed.

        Returns the run id of every calibration, in order. If one of them cannot run, none is queued.
        account, max_queued, on_cluster: as for `JobService.submit`. Raises ModelError, EstimateError, DataError,
        ServiceError, QueueFullError, JobStateError if another process has resumed one of them.
        """
        specs, resumed = [], []
        for one in planned:
            if one.run is None:
                specs.append(one.spec)
            elif one.is_pending:
                self._jobs.check(one.spec, on_cluster, account)
                resumed.append(one.run.job_id)
        new: Iterator[Job] = iter(())
        if specs or resumed:
            new = iter(self._jobs.submit_all(specs, account, max_queued, on_cluster=on_cluster, resumed=resumed))
        return [next(new).run_id if one.run is None else one.run.id for one in planned]
