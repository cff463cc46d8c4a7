"""Exports in the data folder: kept, replaced, zipped, and gone with their run."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from app_cases import SpecMaker, settings_in, work_on

from abq_core.export.errors import ExportError
from app.services import ServiceError, Services, open_services
from storage.errors import RunNotFoundError
from storage.jobs import Job


def ignore(done: int, total: int) -> None:
    """Do nothing at a step."""


@pytest.fixture
def own(tmp_path: Path, tiny_spec: SpecMaker) -> tuple[Services, Job]:
    """Services with a finished run that the test may change."""
    services = open_services(settings_in(tmp_path / "data"))
    return services, work_on(services, services.jobs.submit(tiny_spec()))


def test_a_kept_export_is_zipped_and_goes_with_its_run(own: tuple[Services, Job], tmp_path: Path) -> None:
    services, job = own
    run = str(job.run_id)
    assert services.exports.kept(run, "transformers") is None
    answer = services.exports.keep(run, "transformers", None, ignore)
    assert services.exports.kept(run, "transformers") == answer
    again = services.exports.keep(run, "transformers", None, ignore)  # replaces the first; its proof has other seconds
    assert again["bits_per_parameter"] == answer["bits_per_parameter"]
    assert services.exports.kept(run, "transformers") == again
    assert str(tmp_path) not in json.dumps(answer)
    path = services.exports.archive(run, "transformers", tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert f"{run}-transformers/model.abq.safetensors" in names and f"{run}-transformers/README.md" in names
    assert all(name.startswith(f"{run}-transformers/") for name in names)
    services.runs.delete(run)
    assert list(services.settings.exports_dir.glob("*")) == []


def test_a_failed_export_keeps_the_earlier_one(own: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    services, job = own
    run = str(job.run_id)
    answer = services.exports.keep(run, "transformers", None, ignore)

    def stop(done: int, total: int) -> None:
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        services.exports.keep(run, "transformers", None, stop)
    assert services.exports.kept(run, "transformers") == answer


def test_the_model_card_names_no_folder_of_this_machine(tiny_llama: Path, tmp_path: Path, tiny_spec: SpecMaker) -> None:
    services = open_services(settings_in(tmp_path / "data"))
    model = shutil.copytree(tiny_llama, tmp_path / "o'brien" / "model")
    job = work_on(services, services.jobs.submit(replace(tiny_spec("W4A8", "rtn"), model=str(model))))
    services.exports.export(str(job.run_id), "transformers", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "abq calibrate model " in card and "brien" not in card


@pytest.mark.parametrize("format", ["../runs", "onnx", "", "a/b", "\0"])
def test_only_formats_name_a_folder(finished: tuple[Services, Job], format: str, tmp_path: Path) -> None:
    services, job = finished
    with pytest.raises(ExportError, match="is not a format"):
        services.exports.archive(str(job.run_id), format, tmp_path)


def test_a_run_that_does_not_exist_or_is_not_exported(finished: tuple[Services, Job], tmp_path: Path) -> None:
    services, job = finished
    with pytest.raises(RunNotFoundError):
        services.exports.archive("../../etc", "gguf", tmp_path)
    with pytest.raises(ServiceError, match="is not exported to gguf yet"):
        services.exports.archive(str(job.run_id), "gguf", tmp_path)


def test_a_run_that_is_not_finished(tmp_path: Path, tiny_spec: SpecMaker) -> None:
    services = open_services(settings_in(tmp_path / "data"))
    job = services.jobs.submit(tiny_spec())
    with pytest.raises(ServiceError, match="is queued: only a finished run"):
        services.exports.export(str(job.run_id), "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_is_stopped_late_leaves_another_one_alone(own: tuple[Services, Job]) -> None:
    """Stop on the page does not wait for the thread: a second export may begin before the first has ended."""
    services, job = own
    run = str(job.run_id)
    answers = list[dict[str, object]]()

    def begin_again(done: int, total: int) -> None:
        if not answers:
            answers.append({})
            answers[0] = services.exports.keep(run, "transformers", None, ignore)
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        services.exports.keep(run, "transformers", None, begin_again)
    assert services.exports.kept(run, "transformers") == answers[0]
    assert [path.name for path in (services.settings.exports_dir / run).iterdir()] == ["transformers"]
