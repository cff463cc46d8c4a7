"""abq runs verify, runs gc and db backup.

Damage is found, needed files are kept, blocks are never mixed.
"""

import json
from pathlib import Path

import pytest
from app_cases import SpecMaker, work_on

from app.cli.main import main
from app.clock import now
from app.runs.run_check import leftovers, verify
from app.services import Services
from storage.jobs import Job


@pytest.fixture
def run(services: Services, tiny_spec: SpecMaker) -> Job:
    return work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))


def wrong(services: Services, job: Job) -> list[str]:
    return verify(services.storage.runs, services.settings.runs_dir, services.runs.get(job.run_id))


def left(services: Services) -> dict[str, str]:
    found = leftovers(services.storage.runs, services.storage.jobs, services.settings.runs_dir)
    return {str(item.path.relative_to(services.settings.runs_dir)): item.why for item in found}


def test_a_finished_run_has_no_problems_and_no_leftovers(services: Services, run: Job) -> None:
    assert wrong(services, run) == [] and left(services) == {}


def test_missing_and_changed_files_are_reported(services: Services, run: Job) -> None:
    folder = services.runs.folder(run.run_id)
    first, second = folder.block_path(0), folder.block_path(1)
    first.write_bytes(first.read_bytes()[:-1] + b"\x7f")
    second.unlink()
    folder.write_spec({"spec": {**run.spec, "seed": 9}})
    assert wrong(services, run) == [
        "The file of block 0 differs from the recorded one.",
        "The file of block 1 is missing.",
        "Its spec.json belongs to another calibration.",
    ]
    (folder.path / "spec.json").write_text("{")
    assert wrong(services, run)[-1] == "Its spec.json cannot be read."
    (folder.path / "spec.json").unlink()
    assert wrong(services, run)[-1] == "Its spec.json is missing."


def test_only_files_that_no_run_needs_are_leftovers(services: Services, run: Job, tmp_path: Path) -> None:
    runs_dir, folder = services.settings.runs_dir, services.runs.folder(run.run_id)
    (folder.path / "blocks" / ".000.safetensors.1.tmp").write_bytes(b"half")
    (folder.path / "blocks" / "007.safetensors").write_bytes(b"never recorded")
    folder.draft_path(0).parent.mkdir()
    folder.draft_path(0).write_bytes(b"draft")
    (folder.path / "notes.txt").write_text("a person's")
    (runs_dir / "r-00dead").mkdir()
    (runs_dir / "r-00dead" / "spec.json").write_text("{}")
    (runs_dir / "kept by a person").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (runs_dir / "r-00beef").symlink_to(tmp_path / "elsewhere")
    assert left(services) == {
        "r-00dead": "its run was deleted",
        f"{run.run_id}/blocks/.000.safetensors.1.tmp": "its writer died",
        f"{run.run_id}/blocks/007.safetensors": "it was never recorded and would be computed again",
        f"{run.run_id}/drafts/000.safetensors": "the finished block replaced it",
    }
    for item in leftovers(services.storage.runs, services.storage.jobs, runs_dir):
        item.remove()
    assert left(services) == {} and wrong(services, run) == []
    assert (folder.path / "notes.txt").is_file() and (runs_dir / "kept by a person").is_dir()
    assert (tmp_path / "elsewhere").is_dir()


def test_active_runs_have_no_leftovers(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec())
    folder = services.runs.folder(job.run_id)
    folder.block_path(0).parent.mkdir(parents=True)
    folder.block_path(0).write_bytes(b"not recorded yet")
    assert left(services) == {}
    services.storage.jobs.claim_next("w", now(), job_id=job.id)
    assert left(services) == {} and wrong(services, job) == []
    services.storage.jobs.requeue_worker("w", now())
    services.jobs.cancel(job.id)
    assert list(left(services)) == [f"{job.run_id}/blocks/000.safetensors"]


def test_from_the_command_line(
    services: Services, run: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["runs", "verify"]) == 0 and "1 runs match their records" in capsys.readouterr().out
    services.runs.folder(run.run_id).block_path(1).unlink()
    assert main(["runs", "verify", run.run_id, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == {run.run_id: ["The file of block 1 is missing."]}
    stray = services.runs.folder(run.run_id).block_path(5)
    stray.write_bytes(b"stray")
    assert main(["runs", "gc", "--json"]) == 0 and stray.is_file()
    assert json.loads(capsys.readouterr().out)["bytes"] == 5
    assert main(["runs", "gc", "--yes"]) == 0 and not stray.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fingerprint": "other"}, "the files of its model changed"),
        ({"versions": {"torch": "1.0"}}, "torch was 1.0 and is"),
        ({"spec": None}, "its calibration is not the one in its spec.json"),
    ],
)
def test_a_run_is_not_continued_under_other_inputs(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], reason: str
) -> None:
    def stop(*arguments: object) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("app.jobs.calibration_job.CalibrationJob._diagnose", stop)
        job = work_on(services, services.jobs.submit(tiny_spec("W4A4", "rtn")))
    folder = services.runs.folder(job.run_id)
    content = folder.read_spec()
    assert content is not None and job.blocks_done == 2
    folder.write_spec({**content, **change})
    refused = work_on(services, services.jobs.resume(job.id))
    assert refused.state == "failed" and refused.error is not None
    assert reason in refused.error and "Start a new calibration" in refused.error
    folder.write_spec(content)
    assert work_on(services, services.jobs.resume(job.id)).state == "succeeded"


def test_the_database_is_backed_up_from_the_command_line(
    services: Services, run: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABQ_DATA_DIR", str(services.settings.data_dir))
    assert main(["db", "backup", str(tmp_path / "copy.sqlite3"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"path": str(tmp_path / "copy.sqlite3"), "bytes": (tmp_path / "copy.sqlite3").stat().st_size}
    assert main(["db", "backup", str(tmp_path / "copy.sqlite3")]) == 2 and "already exists" in capsys.readouterr().err
