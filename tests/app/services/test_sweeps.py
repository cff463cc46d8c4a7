"""Sweeps: dry runs, each calibration queued once, continued after an interruption."""

import json
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from app_cases import SpecMaker, settings_in

from abq_core.planning.sweep import read_sweep
from app.cli.main import main
from app.clock import now
from app.services import Services, open_services
from storage.errors import JobStateError, QueueFullError


@pytest.fixture
def services(folder: Path) -> Services:
    return open_services(settings_in(folder / "data"))


@pytest.fixture
def grid(folder: Path, tiny_spec: SpecMaker) -> Path:
    return write(folder, tiny_spec)


def write(folder: Path, tiny_spec: SpecMaker, **changes: object) -> Path:
    spec = tiny_spec()
    asked = {
        "models": [spec.model],
        "precisions": ["W4A4", "W2*A8"],
        "methods": ["rtn", "omniquant"],
        "data": spec.data,
        "segments": 2,
        "seq_len": 32,
        "epochs": 1,
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(asked | changes))
    return path


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, object]]]:
    code = main(["sweep", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out)["sweep"] if out else [{"error": err}]


def test_a_dry_run_shows_costs_and_queues_nothing(
    grid: Path, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows = ask(capsys, str(grid), "--dry-run")
    assert code == 0 and [row["state"] for row in rows] == ["new"] * 4
    assert all(row["peak_memory_bytes"] > 0 and row["run_bytes"] > 0 and row["seconds"] > 0 for row in rows)
    assert not services.storage.jobs.list()
    assert main(["sweep", str(grid), "--dry-run"]) == 0
    assert "4 of 4 calibrations would be queued" in capsys.readouterr().out


def test_a_sweep_runs_once_and_continues_where_it_stopped(
    grid: Path, services: Services, tiny_spec: SpecMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    given_up = services.jobs.submit(tiny_spec("W4A4", "rtn", epochs=1))
    services.jobs.cancel(given_up.id)
    code, rows = ask(capsys, str(grid), "--wait")
    assert code == 0 and {row["state"] for row in rows} == {"succeeded"}
    assert rows[0]["run"] == given_up.run_id
    assert len(services.storage.runs.list()) == 4
    code, again = ask(capsys, str(grid), "--wait")
    assert [row["run"] for row in again] == [row["run"] for row in rows]
    assert len(services.storage.runs.list()) == 4
    code, more = ask(capsys, str(write(grid.parent, tiny_spec, precisions=["W4A4", "W3A8"])), "--dry-run")
    assert [row["state"] for row in more] == ["succeeded", "succeeded", "new", "new"]


def test_nothing_is_queued_if_one_calibration_cannot_run(
    folder: Path, services: Services, tiny_spec: SpecMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, tiny_spec, data=str(folder / "none.txt"))
    assert main(["sweep", str(path)]) == 2
    out, err = capsys.readouterr()
    assert not out and "none.txt" in err and err.count("\n") == 1
    assert not services.storage.runs.list()


def test_a_sweep_takes_over_jobs_of_a_dead_process(
    folder: Path, services: Services, tiny_spec: SpecMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    held = services.jobs.submit(tiny_spec("W4A4", "rtn", epochs=1))
    assert services.storage.jobs.claim_next("dead", now(), timedelta(seconds=-1), job_id=held.id) is not None
    path = write(folder, tiny_spec, precisions=["W4A4"], methods=["rtn"])
    code, (row,) = ask(capsys, str(path), "--wait")
    assert (code, row["run"], row["state"]) == (0, held.run_id, "succeeded")
    code, (again,) = ask(capsys, str(path), "--executor", "ray", "--ray-address", "nowhere:1")
    assert (code, again) == (0, row), "nothing is left, so no cluster is needed"


def test_ray_is_an_extra(grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.sweep.find_spec", lambda name: None)
    assert main(["sweep", str(grid), "--executor", "ray"]) == 2
    out, err = capsys.readouterr()
    assert not out and "pip install 'abq-explorer[ray]'" in err and err.count("\n") == 1


def test_a_ray_address_requires_the_ray_executor(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(grid), "--ray-address", "127.0.0.1:6379"]) == 2
    assert "requires --executor ray" in capsys.readouterr().err
    assert main(["sweep", str(grid), "--executor", "dask"]) == 2


def test_an_address_without_a_cluster_is_refused_and_nothing_is_queued(
    grid: Path, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
        for address, sentence in {
            closed: "No Ray cluster answers",
            "ray://127.0.0.1:10001": "Pass HOST:PORT",
            "somewhere": "Pass HOST:PORT",
        }.items():
            assert main(["sweep", str(grid), "--executor", "ray", "--ray-address", address]) == 2
            out, err = capsys.readouterr()
            assert not out and sentence in err and err.count("\n") == 1
    assert not services.storage.jobs.list()


def test_resumed_and_new_calibrations_are_queued_together_or_not_at_all(
    services: Services, tiny_spec: SpecMaker
) -> None:
    specs = [tiny_spec(precision, "rtn", epochs=1) for precision in ("W4A4", "W3A8", "W2A8")]
    ended = services.jobs.cancel(services.jobs.submit(specs[0]).id)
    planned = services.sweeps.plan(specs)
    with pytest.raises(QueueFullError):
        services.sweeps.queue(planned, max_queued=2)
    assert [job.state for job in services.storage.jobs.list()] == ["cancelled"]
    services.jobs.resume(ended.id)  # by another visitor
    with pytest.raises(JobStateError):
        services.sweeps.queue(planned)
    assert [job.state for job in services.storage.jobs.list()] == ["queued"]
    runs = services.sweeps.queue(services.sweeps.plan(specs), max_queued=3)
    assert runs[0] == ended.run_id and len(set(runs)) == 3
    assert [job.state for job in services.storage.jobs.list()] == ["queued"] * 3


def test_two_notations_of_one_precision_are_one_calibration(
    folder: Path, services: Services, tiny_spec: SpecMaker, tiny_opt: Path
) -> None:
    path = write(folder, tiny_spec, models=[str(tiny_opt)], precisions=["W4A8h8", "W4A8h8e8"], methods=["rtn"])
    assert len(services.sweeps.plan(read_sweep(path))) == 1, "its embedding is its LM head"


def test_a_worker_is_started_for_calibrations_that_are_in_the_queue_already(
    grid: Path, services: Services, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    services.sweeps.queue(services.sweeps.plan(read_sweep(grid)))  # by a process that was killed afterwards
    started: list[Path] = []
    monkeypatch.setattr("app.jobs.executors.local.start_detached", lambda settings: started.append(settings.data_dir))
    code, rows = ask(capsys, str(grid))
    assert code == 0 and {row["state"] for row in rows} == {"queued"} and started == [services.settings.data_dir]
