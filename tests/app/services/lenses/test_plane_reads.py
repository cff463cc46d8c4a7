"""Runs read at fewer bits: measured once, on the page's figure and the command line; runs that cannot be read so."""

import json

import numpy as np
import pytest
from app_cases import SpecMaker, work_on

from app.cli.main import main
from app.figures.lenses.plane_reads import plane_reads_figure
from app.services import ServiceError, Services, models
from app.web.tabs.compare.plane_panel import reads_frame
from storage.errors import RunNotFoundError
from storage.jobs import Job


def test_each_width_is_measured_once_and_drawn(
    finished: tuple[Services, Job], capsys: pytest.CaptureFixture[str]
) -> None:
    services, job = finished
    service = services.lenses.plane_reads
    assert list(service.counts(job.run_id)) == [4, 3, 2]
    assert service.known(job.run_id, 3, "def open") is None
    reads = [service.read(job.run_id, planes, "def open") for planes in (4, 3, 2)]
    again = service.read(job.run_id, 3, "def open")
    assert again == service.known(job.run_id, 3, "def open") and again.at is reads[1].at
    other = service.read(job.run_id, 3, "the module")
    assert other.at is again.at and other.written is not again.written
    sizes = [read.bits_per_parameter for read in reads]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    frame = reads_frame(reads)
    for dark in (False, True):
        of_run, rounded, ring = plane_reads_figure(frame, 3, dark).data
        assert np.array_equal(of_run.y, [read.at.scores.kl_mean for read in reads])
        assert np.array_equal(rounded.y, [read.at.rounded.kl_mean for read in reads])
        assert list(ring.x) == [3]
    assert not plane_reads_figure(frame.iloc[:0], 3).data
    with pytest.raises(ServiceError, match=r"5 planes: run .* can be read at 2 to 4"):
        service.read(job.run_id, 5, "def open")


def test_the_command_line_prints_every_width(
    finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    services, job = finished
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["runs", "planes", job.run_id, "--prompt", "def open", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = services.lenses.plane_reads.read(job.run_id, 2, "def open")
    assert [read["planes"] for read in told["reads"]] == [4, 3, 2]
    assert told["reads"][-1]["kl_mean"] == pytest.approx(expected.at.scores.kl_mean, rel=1e-5)
    assert told["reads"][-1]["text"] == expected.written.text
    assert main(["runs", "planes", "r-0000000000"]) == 2 and "r-0000000000" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["W2A8", "W2*A8", "W16A4"])
def test_a_run_without_lower_planes_is_refused(services: Services, tiny_spec: SpecMaker, precision: str) -> None:
    run = services.jobs.submit(tiny_spec(precision, "rtn")).run_id
    with pytest.raises(ServiceError, match="cannot be read at fewer bits"):
        services.lenses.plane_reads.counts(run)


def test_large_models_and_unknown_runs_are_refused(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = work_on(services, services.jobs.submit(tiny_spec("W4A8", "rtn"))).run_id
    monkeypatch.setattr(models, "MOST_SIMULATED", 1000)
    with pytest.raises(ServiceError, match="at most 1,000"):
        services.lenses.plane_reads.read(run, 3, "def open")
    with pytest.raises(RunNotFoundError):
        services.lenses.plane_reads.counts("r-0000000000")
