"""Weights with NaN or infinity, and settings that break a model: named before a job is queued."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attack_cases import assert_sentence
from inline_commands import InlineCommand, inline_commands
from model_folder_cases import edit_json
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.attack(row=17)


@pytest.fixture
def inline(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InlineCommand:
    return inline_commands(data, monkeypatch, capsys)


NAME = "model.layers.1.mlp.down_proj.weight"
WORDS = ("--precision", "W4A4", "--method", "rtn", "--seq-len", "32", "--segments", "2")
VALUES = [
    (torch.float32, float("nan")),
    (torch.float32, float("inf")),
    (torch.bfloat16, float("-inf")),
    (torch.float16, float("nan")),
    (torch.float64, 1e300),
]


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def change_weight(folder: Path, dtype: torch.dtype, value: float) -> None:
    """Store all weights as `dtype`, one of them with another value."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors[NAME][-1, -1] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_values_that_are_not_finite_are_named(
    inline: InlineCommand, tiny_llama: Path, tmp_path: Path, tried: Callable[[int], None]
) -> None:
    tried(len(VALUES))
    for number, (dtype, value) in enumerate(VALUES):
        folder = Path(shutil.copytree(tiny_llama, tmp_path / str(number)))
        change_weight(folder, dtype, value)
        assert_sentence(inline("calibrate", str(folder), *WORDS), NAME, "not finite")
    assert_sentence(inline("generate", str(folder), "--prompt", "def"), NAME, "not finite")
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []


def test_denormal_weights_are_accepted(inline: InlineCommand, folder: Path) -> None:
    change_weight(folder, torch.float32, 1e-42)
    assert inline("generate", str(folder), "--prompt", "def", "--max-new-tokens", "1").returncode == 0


def test_missing_values_are_named(inline: InlineCommand, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[NAME]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert_sentence(inline("calibrate", str(folder), *WORDS), "lacks weights")
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []


@pytest.mark.parametrize(("field", "value"), [("return_dict", False), ("is_encoder_decoder", True)])
def test_settings_that_break_a_model_are_named(inline: InlineCommand, folder: Path, field: str, value: bool) -> None:
    edit_json(folder / "config.json", lambda config: config.update({field: value}))
    assert_sentence(inline("calibrate", str(folder), *WORDS), field)
    assert json.loads(inline("jobs", "list", "--json").stdout)["jobs"] == []
