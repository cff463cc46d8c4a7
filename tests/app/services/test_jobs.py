"""Jobs: submitted after checks, cancelled, resumed, and listed in every state."""

import dataclasses
from pathlib import Path

import pytest
from app_cases import SpecMaker, work_on

from abq_core.models.errors import ModelError
from abq_core.precision import Precision, PrecisionError
from abq_core.text.errors import DataError
from app.clock import now
from app.services import Services, jobs
from app.services.jobs import RECENT
from storage.errors import JobNotFoundError, QueueFullError, RunNotFoundError


def test_a_calibration_that_cannot_run_is_not_queued(services: Services, tiny_spec: SpecMaker, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        services.jobs.submit(dataclasses.replace(tiny_spec(), model=str(tmp_path)))
    with pytest.raises(DataError, match="does not exist"):
        services.jobs.submit(tiny_spec(data=str(tmp_path / "missing.txt")))
    with pytest.raises(DataError, match="longer than the context"):
        services.jobs.submit(tiny_spec(segments=4096, seq_len=131072))
    assert not services.storage.jobs.list()


def test_a_submitted_precision_names_the_bits_of_a_tied_table(
    services: Services, tiny_spec: SpecMaker, tiny_opt: Path
) -> None:
    untied, tied = tiny_spec("W4A8h8"), dataclasses.replace(tiny_spec("W4A8h8"), model=str(tiny_opt))
    assert services.jobs.submit(untied).spec["precision"] == "W4A8h8"
    assert services.jobs.submit(tied).spec["precision"] == "W4A8h8e8"
    with pytest.raises(PrecisionError, match="one table"):
        services.jobs.submit(dataclasses.replace(tied, precision=Precision.parse("W4A8h8e4")))
    planned = services.sweeps.plan([tied, dataclasses.replace(tied, precision=Precision.parse("W4A8e8"))])
    assert len({one.spec for one in planned}) == 1 and planned[0].run is not None


def test_a_job_is_found_by_its_id_and_by_its_run(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec())
    assert services.jobs.get(f" {job.id} ") == services.jobs.get(job.run_id) == job
    with pytest.raises(JobNotFoundError):
        services.jobs.cancel("j-ffff")
    with pytest.raises(RunNotFoundError):
        services.jobs.get("r-ffff")


def test_a_cancelled_job_can_be_resumed(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec("W2*A8", "rtn"))
    assert services.jobs.cancel(job.id).state == "cancelled"
    assert services.jobs.resume(job.id).state == "queued"
    assert work_on(services, job).state == "succeeded"


def test_the_frame_shows_jobs_in_every_state(services: Services, tiny_spec: SpecMaker) -> None:
    failed, running, queued = (services.jobs.submit(tiny_spec("W4A4", "rtn")) for _ in range(3))
    claimed = services.storage.jobs.claim_next("w", now())
    assert claimed is not None and claimed.id == failed.id
    services.storage.jobs.fail(claimed.id, claimed.epoch, now(), "The disk is full.")
    claimed = services.storage.jobs.claim_next("w", now())
    assert claimed is not None and claimed.id == running.id
    services.storage.jobs.progress(claimed.id, claimed.epoch, now(), 0.5, "Block 1 of 2.", eta_seconds=12.0)
    frame = services.jobs.frame().set_index("job")
    assert frame["error"].to_dict() == {failed.id: "The disk is full.", running.id: "", queued.id: ""}
    assert frame["message"][running.id] == "Block 1 of 2." and frame["message"][failed.id] == ""
    assert frame["eta_seconds"][running.id] == 12.0 and frame["eta_seconds"].isna()[queued.id]


def test_several_calibrations_are_queued_together_or_not_at_all(services: Services, tiny_spec: SpecMaker) -> None:
    with pytest.raises(QueueFullError):
        services.jobs.submit_all([tiny_spec(), tiny_spec("W2A8")], max_queued=1)
    with pytest.raises(ModelError, match="tpu"):
        services.jobs.submit_all([tiny_spec(), tiny_spec(device="tpu")])
    assert services.jobs.frame().empty
    jobs = services.jobs.submit_all([tiny_spec(), tiny_spec("W2A8")], max_queued=2)
    assert [job.spec["precision"] for job in jobs] == ["W4A4", "W2A8"]


def test_as_many_jobs_are_listed_as_asked_for(services: Services, tiny_spec: SpecMaker) -> None:
    spec = tiny_spec("W4A4", "rtn").to_dict()
    services.storage.jobs.submit_all([spec] * (RECENT + 1), now())
    assert len(services.jobs.frame()) == RECENT
    assert [len(services.jobs.newest(limit)) for limit in (2, RECENT + 50, 10**30)] == [2, RECENT + 1, RECENT + 1]


def test_the_log_of_a_job_is_shown_up_to_a_limit(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.MAX_LISTED > 1000
    monkeypatch.setattr(jobs, "MAX_LISTED", 3)
    job = services.jobs.submit(tiny_spec("W4A4", "rtn"))
    claimed = services.storage.jobs.claim_next("w", now())
    assert claimed is not None
    for number in range(4):
        services.storage.jobs.log(job.id, claimed.epoch, now(), f"line {number}")
    assert len(services.jobs.log(job.id).splitlines()) == 3
