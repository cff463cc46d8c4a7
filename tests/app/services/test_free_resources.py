"""Calibrations that do not fit are refused before they are queued.

The message says what would fit.
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from app_cases import SpecMaker
from model_folder_cases import edit_json

from abq_core.analysis.diagnostics import DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN
from abq_core.planning.cost import Work
from abq_core.planning.estimate import Available, EstimateError
from app.cli.main import main
from app.jobs.calibration_job import EvaluationPlan
from app.services import Services, free_resources

KIB, MIB = 1 << 10, 1 << 20
PLENTY = 1 << 50


def free(monkeypatch: pytest.MonkeyPatch, available: Available) -> None:
    """Replace the free resources of this machine."""
    monkeypatch.setattr(free_resources, "available", lambda data_dir, *devices: available)


@pytest.fixture
def long_context(tiny_llama: Path, tmp_path: Path) -> str:
    """The tiny LLaMA with a context of 131,072 tokens."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "long-context"))
    edit_json(folder / "config.json", lambda config: config.update(max_position_embeddings=131072))
    edit_json(folder / "tokenizer_config.json", lambda config: config.update(model_max_length=131072))
    return str(folder)


def test_a_calibration_that_does_not_fit_is_not_queued(
    services: Services, tiny_spec: SpecMaker, long_context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EstimateError, match=r"GiB of memory \(.* free\)"):  # with the real free memory of this machine
        services.jobs.submit(replace(tiny_spec(segments=4096, seq_len=131072), model=long_context))
    huge = tiny_spec(segments=4096, seq_len=64, data="builtin")
    fitting = services.models.estimate_calibration(replace(huge, segments=40)).peak_memory_bytes
    free(monkeypatch, Available(fitting, PLENTY))
    with pytest.raises(EstimateError, match=r"MiB free\)\. Use at most \d+ segments") as caught:
        services.jobs.submit(huge)
    assert not services.storage.jobs.list()
    count = int(re.findall(r"at most (\d+) segments", str(caught.value))[0])
    services.jobs.submit(replace(huge, segments=count))
    with pytest.raises(EstimateError):
        services.jobs.submit(replace(huge, segments=count + 1))


@pytest.mark.parametrize(
    ("available", "words"),
    [
        (Available(PLENTY, KIB), r"of disk \(1 KiB free\).*ABQ_DATA_DIR"),
        (Available(MIB, PLENTY), r"of memory \(1 MiB free\).*too large for this machine"),
        (Available(MIB, KIB), r"of memory \(1 MiB free\), .* of disk \(1 KiB free\)"),
        (Available(PLENTY, PLENTY, MIB), r"of memory of cuda \(1 MiB free\)"),
    ],
)
def test_memory_disk_and_device_memory_are_checked(
    services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch, available: Available, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    free(monkeypatch, available)
    with pytest.raises(EstimateError, match=words):
        services.jobs.submit(tiny_spec(device="cuda"))
    assert not services.storage.jobs.list()
    free(monkeypatch, Available(PLENTY, PLENTY, PLENTY))
    assert services.jobs.submit(tiny_spec(device="cuda")).state == "queued"


def test_free_resources_are_those_of_this_machine(tmp_path: Path) -> None:
    found = free_resources.available(tmp_path, "cpu")
    assert found.host > 0 and found.disk > 0 and found.device is None


def test_the_command_line_refuses_in_one_line(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABQ_DATA_DIR", str(tmp_path / "data"))
    free(monkeypatch, Available(MIB, PLENTY))
    assert main(["calibrate", str(tiny_llama), "--precision", "W4A4", "--seq-len", "32"]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.strip().splitlines()) == 1 and "of memory (1 MiB free)" in err


def test_the_estimate_counts_diagnostics_and_evaluation() -> None:
    plan = EvaluationPlan()
    assert Work().diagnosed == (DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN)
    assert Work().evaluated == (plan.segments, plan.seq_len)
