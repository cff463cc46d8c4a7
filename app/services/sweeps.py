"""A sweep as jobs: which of its calibrations have a run, and queueing those that have none."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from abq_core.spec import CalibrationSpec
from app.services.explorer import local_path

if TYPE_CHECKING:
    from abq_core.planning.estimate import Estimate
    from app.jobs.executors.ray import RayCluster
    from app.services.explorer import Explorer
    from storage.runs import Run


@dataclass(frozen=True)
class Planned:
    """One calibration of a sweep. run: the newest run of exactly this calibration, None where there is none."""

    spec: CalibrationSpec
    run: "Run | None"
    estimate: "Estimate"

    @property
    def state(self) -> str:
        """Of the run's newest job, or "new"."""
        return "new" if self.run is None else self.run.state

    @property
    def is_left(self) -> bool:
        """Whether queueing would do anything: there is no run, or it was given up."""
        return self.state in ("new", "failed", "cancelled")


def plan(explorer: "Explorer", specs: Sequence[CalibrationSpec]) -> list[Planned]:
    """What each calibration takes and what there is of it. Raises ModelError."""
    from abq_core.models.reference import pinned

    models = {spec.model: pinned(local_path(spec.model)) for spec in specs}
    specs = [replace(spec, model=models[spec.model], data=local_path(spec.data)) for spec in specs]
    runs: dict[CalibrationSpec, Run] = {}
    for run in explorer.runs.list():  # newest first
        with contextlib.suppress(ValueError):  # of a version that knew other fields: no calibration of today
            runs.setdefault(CalibrationSpec.from_dict(run.spec), run)
    return [Planned(spec, runs.get(spec), explorer.estimate_of(spec)) for spec in specs]


def check_on(cluster: "RayCluster", planned: Sequence[Planned]) -> None:
    """Refuse, before anything is queued, what of a sweep cannot run on this cluster. Raises ClusterError."""
    from app.jobs.executors.cluster import need_of

    left = [one for one in planned if one.state != "succeeded"]
    needs = [need_of(one.spec, one.estimate.peak_memory_bytes, cluster.cpus) for one in left]
    cluster.check([one.spec for one in left], needs)


def queue(explorer: "Explorer", planned: Sequence[Planned]) -> list[str]:
    """Queue what is left of a sweep, new or from where it stopped; the run of every calibration, in order.

    Nothing is queued where one of them cannot run here. Raises EstimateError, DataError.
    """
    for one in planned:
        if one.is_left:
            explorer.check(one.spec)
    found = []
    for one in planned:
        if one.run is None:
            found.append(explorer.submit(one.spec).run_id)
            continue
        if one.is_left:
            explorer.resume(one.run.id)
        found.append(one.run.id)
    return found
