"""Services on a temporary data folder, and a calibration that takes a second."""

from pathlib import Path

import pytest
from app_cases import SpecMaker, settings_in, work_on

from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.services import Services, open_services
from app.settings import Settings
from storage.jobs import Job


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The module provides functions to read and write files, one line at a time. " * 600, "utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path / "data")


@pytest.fixture
def services(settings: Settings) -> Services:
    return open_services(settings)


@pytest.fixture(scope="session")
def tiny_spec(tiny_llama: Path, text_file: Path) -> SpecMaker:
    """Makes the spec of a calibration of the tiny model on a short text."""

    def make(precision: str = "W4A4", method: str = "abq", **changes: object) -> CalibrationSpec:
        values = {"data": str(text_file), "segments": 2, "seq_len": 32, "epochs": 2, **changes}
        return CalibrationSpec(str(tiny_llama), Precision.parse(precision), method, **values)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_spec: SpecMaker) -> tuple[Services, Job]:
    """Services with one successful run; tests must not change it."""
    services = open_services(settings_in(tmp_path_factory.mktemp("finished")))
    return services, work_on(services, services.jobs.submit(tiny_spec()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary data folder for the commands of this test."""
    monkeypatch.setenv("ABQ_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ABQ_THREADS", "1")
    monkeypatch.delenv("ABQ_DATABASE_URL", raising=False)
    return tmp_path
