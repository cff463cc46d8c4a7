"""A GGUF file is the model that it was made from: the same parameters, logits, shape and tokens."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from family_cases import family_model
from gguf import GGUFWriter
from gguf_cases import (
    CHAT_TEMPLATE,
    PLAIN,
    QUANTIZED,
    family_gguf,
    gguf_and_folder,
    wide_llama,
    write_gguf,
)
from torch import Tensor

from abq_core.models.errors import ModelError
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.reference import fingerprint, pinned
from abq_core.models.shape import model_shape

FAMILIES = ("llama", "mistral-without-window", "qwen2", "qwen3", "gemma3_text", "phi3", "phi3-partial")


def logits(loaded: LoadedModel) -> Tensor:
    ids = torch.arange(1, 41).view(2, 20)
    with torch.no_grad():
        return loaded.logits(loaded.hidden(ids))


def assert_equal(file: Path, folder: Path) -> LoadedModel:
    """The file and the folder are the same model, bit for bit."""
    ours, theirs = load_model(str(file)), load_model(str(folder))
    expected = theirs.model.state_dict()
    found = ours.model.state_dict()
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    assert torch.equal(logits(ours), logits(theirs))
    return ours


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_every_family_has_the_logits_of_its_folder(
    family: str, kind: str, tokenizer_json: Path, tmp_path: Path
) -> None:
    model = family_model(family.partition("-without")[0])
    if family == "mistral-without-window":
        model.config.sliding_window = None  # llama.cpp has no place for it
    if family == "gemma3_text":
        model.config.query_pre_attn_scalar = model.config.head_dim  # as in all sizes but one
    file, folder = gguf_and_folder(model, tokenizer_json, tmp_path, kind)
    loaded = assert_equal(file, folder)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())


@pytest.mark.parametrize("kind", [*PLAIN, *QUANTIZED])
def test_every_storage_type_has_the_logits_of_its_decoded_weights(
    kind: str, tokenizer_json: Path, tmp_path: Path
) -> None:
    file, folder = gguf_and_folder(wide_llama(), tokenizer_json, tmp_path, kind)
    assert_equal(file, folder)
    stored = model_shape(str(file)).stored
    assert stored is not None and stored.types == (kind,) and stored.quantized == (kind in QUANTIZED)
    bits = {"F32": 32, "F16": 16, "BF16": 16, "Q4_1": 5, "Q8_0": 8.5, "Q2_K": 2.625, "Q4_K": 4.5, "Q6_K": 6.5625}
    assert stored.bits == bits.get(kind, stored.bits)


def test_the_shape_is_that_of_the_folder(tokenizer_json: Path, tmp_path: Path) -> None:
    file, folder = family_gguf("qwen3", tokenizer_json, tmp_path, "Q4_0")
    ours, theirs = model_shape(str(file)), model_shape(str(folder))
    assert theirs.stored is None and ours.ref == str(file)
    same = ("family", "blocks", "hidden", "heads", "kv_heads", "intermediate", "vocabulary", "context", "parameters")
    assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
    assert ours.linears == theirs.linears


def test_an_output_layer_of_its_own_is_not_tied(tokenizer_json: Path, tmp_path: Path) -> None:
    model = family_model("qwen2")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    file, folder = gguf_and_folder(model, tokenizer_json, tmp_path)
    tied = assert_equal(file, folder)
    assert tied.model.config.tie_word_embeddings
    untied = load_model(str(family_gguf("qwen2", tokenizer_json, tmp_path / "untied")[0]))
    assert not untied.model.config.tie_word_embeddings


def test_the_factors_of_llama_3_scale_its_frequencies(tokenizer_json: Path, tmp_path: Path) -> None:
    model = family_model("llama-3.1")
    rope = model.config.rope_parameters
    frequencies = rope["rope_theta"] ** (torch.arange(0, 16, 2).double() / 16)  # divisors of positions
    waves = 2 * torch.pi * frequencies
    old, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = (old / waves - low) / (high - low)
    factors = torch.where(
        waves < old / high, 1.0, torch.where(waves > old / low, factor, 1 / ((1 - smooth) / factor + smooth))
    )
    file, folder = gguf_and_folder(
        model, tokenizer_json, tmp_path, extra={"rope_freqs.weight": factors.float().numpy()}
    )
    ours, theirs = logits(load_model(str(file))), logits(load_model(str(folder)))
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    without = tmp_path / "without.gguf"
    write_gguf(model, tokenizer_json, without)
    assert (logits(load_model(str(without))) - theirs).abs().max() > 1e-2


def test_long_phi_3_takes_its_factors(tokenizer_json: Path, tmp_path: Path) -> None:
    model = family_model("phi3")
    half = 8  # of a head's 16 channels
    short, long = np.linspace(1, 2, half, dtype=np.float32), np.linspace(1, 9, half, dtype=np.float32)
    model.config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short.tolist(), "long_factor": long.tolist(),
        "attention_factor": 1.25, "factor": 4.0, "original_max_position_embeddings": 32, "partial_rotary_factor": 1.0,
    }  # fmt: skip
    model.config.original_max_position_embeddings = 32

    def scaling(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_orig_ctx_len(32)
        writer.add_rope_scaling_attn_factors(1.25)

    extra = {"rope_factors_short.weight": short, "rope_factors_long.weight": long}
    file, folder = gguf_and_folder(model, tokenizer_json, tmp_path, more=scaling, extra=extra)
    assert_equal(file, folder)


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_scaled_positions(rope: dict[str, object], tokenizer_json: Path, tmp_path: Path) -> None:
    model = family_model("qwen2")
    more = {"original_max_position_embeddings": 32} if rope["rope_type"] == "yarn" else {}
    model.config.rope_parameters = {"rope_theta": 10000.0, **rope, **more}
    file, folder = gguf_and_folder(model, tokenizer_json, tmp_path)
    assert_equal(file, folder)


def test_fingerprint_and_pinned_form(tokenizer_json: Path, tmp_path: Path) -> None:
    file, _ = family_gguf("llama", tokenizer_json, tmp_path)
    renamed = tmp_path / "other.GGUF"
    shutil.copy(file, renamed)
    assert fingerprint(str(file)) == fingerprint(str(renamed)) and pinned(str(file)) == str(file)
    before = fingerprint(str(file))
    write_gguf(family_model("llama"), tokenizer_json, file, "Q8_0")
    assert fingerprint(str(file)) != before
    assert model_shape(str(file)).stored.types == ("Q8_0",)  # type: ignore[union-attr]


def test_the_chat_template_comes_along(tokenizer_json: Path, tmp_path: Path) -> None:
    file, _ = family_gguf("llama", tokenizer_json, tmp_path)
    tokenizer = load_model(str(file)).tokenizer
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello"


def test_a_folder_with_only_a_gguf_file_names_it(tokenizer_json: Path, tmp_path: Path) -> None:
    file, _ = family_gguf("llama", tokenizer_json, tmp_path / "models")
    shutil.rmtree(tmp_path / "models" / "folder")
    with pytest.raises(ModelError, match=file.name):
        load_model(str(tmp_path / "models"))


def test_a_model_gguf_in_an_ordinary_folder_is_ignored(tokenizer_json: Path, tmp_path: Path) -> None:
    file, folder = family_gguf("llama", tokenizer_json, tmp_path)
    expected = fingerprint(str(folder))
    (folder / "model.gguf").symlink_to(file)
    assert fingerprint(str(folder)) == expected
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_model(str(folder))


def test_without_the_package_the_error_names_the_extra(
    tokenizer_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = family_gguf("llama", tokenizer_json, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match=r"abq-explorer\[gguf\]"):
        load_model(str(file))
