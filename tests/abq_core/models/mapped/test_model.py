"""Mapped models: the same parameters, outputs and files as transformers' float32 model, for every family."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from family_cases import CONFIGS, family_folder
from safetensors.torch import load_file, save_file
from torch import nn

from abq_core.analysis.diagnostics import diagnose
from abq_core.analysis.explore import explore
from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.runtime import quantized_model, streamed_model
from abq_core.models.architectures import blocks_of
from abq_core.models.files import WEIGHTS
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.mapped.modules import StoredEmbedding, StoredLinear
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
IDS = torch.arange(20, 60).view(2, -1)


def in_dtype(folder: Path, dtype: torch.dtype) -> Path:
    """The folder with all its tensors stored in this dtype."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def both(folder: Path) -> tuple[LoadedModel, LoadedModel]:
    """The model mapped, and converted to float32."""
    mapped, converted = load_model(str(folder), mapped_bytes=0), load_model(str(folder))
    assert mapped.weights is not None and converted.weights is None
    return mapped, converted


@torch.inference_mode()
def assert_same(mapped: LoadedModel, converted: LoadedModel) -> None:
    values = dict(converted.model.named_parameters(remove_duplicate=False))
    names = [name for name, _ in mapped.model.named_parameters(remove_duplicate=False)]
    assert sorted(names) == sorted(values)
    for name, parameter in mapped.model.named_parameters(remove_duplicate=False):
        assert torch.equal(parameter.float(), values[name]) and not parameter.requires_grad, name
    for name, buffer in mapped.model.named_buffers():
        assert torch.equal(buffer, converted.model.get_buffer(name)), name
    assert torch.equal(mapped.hidden(IDS), converted.hidden(IDS))
    assert torch.equal(mapped.logits(mapped.hidden(IDS)), converted.logits(converted.hidden(IDS)))
    one = mapped.hidden(IDS[:1, :1])
    torch.testing.assert_close(one, converted.hidden(IDS[:1, :1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CONFIGS)
def test_every_family_computes_the_same(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    assert_same(*both(in_dtype(family_folder(case, tmp_path, tiny_llama), torch.bfloat16)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_keep_their_dtype_and_small_parameters_are_float32(
    dtype: torch.dtype, tiny_llama: Path, tmp_path: Path
) -> None:
    mapped, converted = both(in_dtype(Path(shutil.copytree(tiny_llama, tmp_path / "model")), dtype))
    assert_same(mapped, converted)
    stored = dtype != torch.float32
    model = mapped.model
    assert model.model.layers[0].mlp.up_proj.weight.dtype == model.get_input_embeddings().weight.dtype == dtype
    assert isinstance(model.model.layers[0].mlp.up_proj, StoredLinear) == stored
    assert isinstance(model.get_input_embeddings(), StoredEmbedding) == stored
    assert model.model.norm.weight.dtype == torch.float32
    assert model.generation_config.eos_token_id == converted.model.generation_config.eos_token_id
    assert mapped.tokenizer.model_max_length == converted.tokenizer.model_max_length


@pytest.mark.parametrize("stored_twice", [False, True])
def test_a_tied_head_shares_the_embedding(stored_twice: bool, tiny_llama: Path, tmp_path: Path) -> None:
    folder = in_dtype(family_folder("gemma", tmp_path, tiny_llama), torch.bfloat16)
    if stored_twice:
        tensors = load_file(folder / WEIGHTS)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    mapped = load_model(str(folder), mapped_bytes=0)
    assert mapped.weights is not None
    assert mapped.model.get_output_embeddings().weight is mapped.model.get_input_embeddings().weight


def test_names_that_transformers_must_convert_are_loaded_by_it(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    tensors = load_file(folder / WEIGHTS)
    without_prefix = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(without_prefix, folder / WEIGHTS, metadata={"format": "pt"})
    loaded = load_model(str(folder), mapped_bytes=0)
    assert loaded.weights is None
    up = loaded.model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(up, tensors["model.layers.0.mlp.up_proj.weight"])


def test_a_block_is_float32_while_it_is_used_and_its_pages_leave_memory(tiny_llama: Path, tmp_path: Path) -> None:
    folder = in_dtype(Path(shutil.copytree(tiny_llama, tmp_path / "model")), torch.bfloat16)
    mapped, converted = both(folder)
    for index, expected in enumerate(blocks_of(converted.model)):
        with mapped.block(index) as block:
            assert type(block.mlp.up_proj) is nn.Linear
            for name, parameter in block.named_parameters():
                assert torch.equal(parameter, expected.get_parameter(name)) and parameter.dtype == torch.float32
        assert isinstance(blocks_of(mapped.model)[index].mlp.up_proj, StoredLinear)
    assert_same(mapped, converted)  # released pages are read again
    with converted.block(0) as block:
        assert block is blocks_of(converted.model)[0]


@pytest.mark.parametrize("precision", ["W4A8", "W4A8h4e4", "W4A8kv8h8", "W16A8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_quantized_models_are_those_of_the_converted_model(
    dtype: torch.dtype, precision: str, tiny_llama: Path, tmp_path: Path
) -> None:
    mapped, converted = both(in_dtype(Path(shutil.copytree(tiny_llama, tmp_path / "model")), dtype))
    parsed = Precision.parse(precision)
    spec = CalibrationSpec(mapped.ref, parsed, "abq", segments=2, seq_len=16, epochs=1)
    stores = MemoryStore(), MemoryStore()
    for base, store in zip((mapped, converted), stores, strict=True):
        calibrate(base, spec, store)
    for index in range(2):
        first, second = (store.load(index) for store in stores)
        assert first is not None and second is not None and first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    with torch.inference_mode():
        for engine in ("simulated", "packed"):
            one, two = (
                quantized_model(base, parsed, store, engine)
                for base, store in zip((mapped, converted), stores, strict=True)
            )
            assert torch.equal(one.hidden(IDS), two.hidden(IDS))
            logits = [model.logits(model.hidden(IDS)) for model in (one, two)]
            torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    frames = [diagnose(base, parsed, store, IDS) for base, store in zip((mapped, converted), stores, strict=True)]
    for name, frame in frames[0].items():
        pd.testing.assert_frame_equal(frame, frames[1][name])
    scores = [
        evaluate(streamed_model(base, parsed, store), base, IDS)
        for base, store in zip((mapped, converted), stores, strict=True)
    ]
    assert scores[0] == scores[1]


def test_exploration_is_that_of_the_converted_model(tiny_llama: Path, tmp_path: Path) -> None:
    mapped, converted = both(in_dtype(Path(shutil.copytree(tiny_llama, tmp_path / "model")), torch.bfloat16))
    for name, frame in explore(mapped, Precision.parse("W3A8")).items():
        pd.testing.assert_frame_equal(frame, explore(converted, Precision.parse("W3A8"))[name])


def test_the_end_to_end_pass_on_a_mapped_model_has_the_same_result(tiny_llama: Path, tmp_path: Path) -> None:
    mapped, converted = both(in_dtype(Path(shutil.copytree(tiny_llama, tmp_path / "model")), torch.bfloat16))
    spec = CalibrationSpec(
        mapped.ref, Precision.parse("W2A8e4"), "abq+", segments=2, seq_len=16, epochs=1, end_to_end_segments=8
    )
    stores = MemoryStore(), MemoryStore()
    for base, store in zip((mapped, converted), stores, strict=True):
        calibrate(base, spec, store)
    for index in range(2):
        first, second = (store.load(index) for store in stores)
        assert first is not None and second is not None
        assert all(torch.equal(first[name], second[name]) for name in second)
