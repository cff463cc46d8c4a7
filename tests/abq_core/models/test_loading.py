"""Loading models.

Weights, forward passes, shards, and models with missing or mismatched parts.
"""

import json
from pathlib import Path

import pytest
import torch
from family_cases import CONFIGS, family_folder
from model_folder_cases import edit_json
from safetensors.torch import load_file, save_file
from transformers import DynamicCache
from transformers.utils import is_kernels_available

import abq_core
from abq_core.models.architectures import blocks_of
from abq_core.models.attention.function import attention_maps
from abq_core.models.errors import ModelError, ModelNotFoundError
from abq_core.models.files import WEIGHTS, WEIGHTS_INDEX, check_config
from abq_core.models.loading import load_model
from abq_core.models.shape import model_shape
from abq_core.precision import FULL


def test_a_folder_loads_ready_to_run(tiny_llama: Path) -> None:
    loaded = load_model(str(tiny_llama))
    assert loaded.precision == FULL and loaded.ref == str(tiny_llama)
    assert (loaded.context, loaded.vocabulary, loaded.tokenizer.model_max_length) == (128, 300, 128)
    with attention_maps(loaded.model) as maps:
        loaded.model(torch.tensor([[1, 2]]))
    assert len(maps) == len(blocks_of(loaded.model)), "every block calls the project's attention"
    assert not loaded.model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.model.parameters())
    stored = load_file(tiny_llama / WEIGHTS)["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(loaded.model.model.layers[1].mlp.down_proj.weight, stored)


def test_transformers_does_not_mistake_the_kernels_folder_for_the_library() -> None:
    import kernels

    assert Path(kernels.__file__).parent.parent == Path(abq_core.__file__).parents[1]
    assert not is_kernels_available()


@pytest.mark.parametrize("case", CONFIGS)
def test_hidden_and_logits_equal_the_models_forward(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load_model(str(family_folder(case, tmp_path, tiny_llama)))
    assert model_shape(loaded.ref).family == CONFIGS[case]().model_type
    ids = torch.randint(0, 300, (2, 20))
    with torch.inference_mode():
        expected = loaded.model(ids).logits
        assert torch.equal(loaded.logits(loaded.hidden(ids)), expected)
        cache = DynamicCache(config=loaded.model.config)
        parts = [loaded.hidden(part, cache) for part in ids.split([11, 1, 1, 7], dim=1)]
        torch.testing.assert_close(loaded.logits(torch.cat(parts, 1)), expected, rtol=1e-4, atol=1e-4)


def test_sharded_weights_load(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index))
    loaded = load_model(str(folder)).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"00002-of-00002\.safetensors is missing"):
        load_model(str(folder))


def test_missing_weights_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    dropped = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks weights"):
        load_model(str(folder))
    save_file(tensors | {"other": dropped}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight"):
        load_model(str(folder))
    save_file(tensors | {"model.layers.0.mlp.up_proj.weight": dropped.T.contiguous()}, folder / WEIGHTS)
    with pytest.raises(ModelError):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "evil"}, "evil.*not supported"),
        ({"model_type": None}, "not supported"),
        ({"model_type": ["llama"]}, "not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ({"hidden_size": -1}, "hidden_size -1"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"vocab_size": 10**7}, "lacks weights"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
    ],
)
def test_impossible_configs_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    edit_json(folder / "config.json", lambda c: c.update(change))
    with pytest.raises(ModelError, match=message):
        load_model(str(folder))


def test_references_without_a_model_are_named(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for ref in (str(empty), str(tmp_path / "nowhere"), "", "a b c", "../..", "x\0y", "a" * 5000, "~no-such-user/x"):
        with pytest.raises(ModelNotFoundError, match="builtin"):
            load_model(ref)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelNotFoundError, match="no weights"):
        check_config(folder)


def test_a_missing_or_mismatched_tokenizer_is_named(folder: Path) -> None:
    added = {f"word{i}": 300 + i for i in range(9)}
    edit_json(folder / "tokenizer.json", lambda c: c["model"]["vocab"].update(added))
    with pytest.raises(ModelError, match="309 tokens but 300 embeddings"):
        load_model(str(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(str(folder))


def test_an_unusable_device_is_named(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="'warp'"):
        load_model(str(tiny_llama), device="warp")
