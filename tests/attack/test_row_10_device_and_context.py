"""A device that this machine does not have, or segments beyond the model's context: refused before a job is queued."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attack_cases import assert_sentence
from inline_commands import InlineCommand, inline_commands

pytestmark = pytest.mark.attack(row=10)


@pytest.fixture
def inline(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InlineCommand:
    return inline_commands(data, monkeypatch, capsys)


DEVICES = ("tpu", "meta", "mps", "cuda:99", "cpu:1", "cuda:-1", "", "cu\u0664da", "x" * 500)
SHORT = ("--precision", "W4A4", "--method", "rtn")


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("The module provides functions to read and write files, one line at a time. " * 600)
    return str(file)


def test_devices_that_do_not_exist_are_refused(
    inline: InlineCommand, tiny_llama: Path, text: str, tried: Callable[[int], None]
) -> None:
    devices = [device for device in DEVICES if device] + ([] if torch.cuda.is_available() else ["cuda", "cuda:0"])
    tried(len(devices))
    for device in devices:
        done = inline("calibrate", str(tiny_llama), *SHORT, "--seq-len", "32", "--data", text, "--device", device)
        assert_sentence(done, device[:40], "cpu")
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []


def test_segments_beyond_the_context_are_refused(inline: InlineCommand, tiny_llama: Path, text: str) -> None:
    for seq_len in ("129", "131072"):
        done = inline("calibrate", str(tiny_llama), *SHORT, "--segments", "1", "--seq-len", seq_len, "--data", text)
        assert_sentence(done, "longer than the context", "128 tokens", "--seq-len")
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []


def test_a_sweep_is_refused_as_a_whole(inline: InlineCommand, tiny_llama: Path, text: str, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"models: [{tiny_llama}]\nprecisions: [W4A4]\nmethods: [rtn]\ndata: {text}\nseq_len: 32\ndevice: tpu\n"
    )
    assert_sentence(inline("sweep", str(grid)), "'tpu' is not supported")
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []
