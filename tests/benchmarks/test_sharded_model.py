"""Sharded models with random weights: loadable, mapped, and the same for the same name."""

from pathlib import Path

import torch
from random_models import CONFIGS
from sharded_model import sharded_folder

from abq_core.models.loading import load_model
from abq_core.models.shape import model_shape


def test_a_sharded_model_loads_from_its_files(tmp_path: Path) -> None:
    config = CONFIGS["random-256"]
    folder = sharded_folder("random-256", tmp_path / "one")
    assert len(list(folder.glob("*.safetensors"))) == config.num_hidden_layers + 1
    loaded = load_model(str(folder), mapped_bytes=0)
    assert loaded.weights is not None and loaded.model.model.layers[3].mlp.up_proj.weight.dtype == torch.bfloat16
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert parameters == model_shape(str(folder)).parameters
    assert torch.isfinite(loaded.logits(loaded.hidden(torch.arange(8).view(1, -1)))).all()
    again = load_model(str(sharded_folder("random-256", tmp_path / "two")), mapped_bytes=0)
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name))
