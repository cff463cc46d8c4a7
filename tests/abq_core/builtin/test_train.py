"""The training recipe of the built-in LLaMA and of the Qwen2 for benchmarks."""

import argparse
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from abq_core.builtin import train
from abq_core.builtin.corpus import Document
from abq_core.builtin.train import CONTEXT, VOCABULARY, build_model, optimizers, save, write_card
from abq_core.models.loading import load_model
from abq_core.models.reference import BUILTIN_FOLDER
from abq_core.models.shape import model_shape


def test_the_default_family_has_the_config_of_the_built_in_model() -> None:
    built, stored = build_model("llama", 0).config.to_dict(), load_model("builtin").model.config.to_dict()
    changing = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "architectures"}
    assert {k: v for k, v in built.items() if k not in changing} == {
        k: v for k, v in stored.items() if k not in changing
    }
    assert model_shape(str(BUILTIN_FOLDER)).parameters == build_model("llama", 0).num_parameters()


def test_the_second_family_differs_in_width_and_has_biases() -> None:
    model = build_model("qwen2", 0)
    attention = model.model.layers[0].self_attn
    assert 3e6 < model.num_parameters() < 4e6
    assert model.config.hidden_size == 192 and len(model.model.layers) == 5
    assert (model.config.vocab_size, model.config.max_position_embeddings) == (VOCABULARY, CONTEXT)
    assert attention.q_proj.bias is not None and attention.v_proj.bias is not None and attention.o_proj.bias is None
    assert attention.k_proj.weight.shape == (64, 192)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_each_parameter_has_one_optimizer_and_the_saved_model_loads(
    family: str, tiny_llama: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build_model(family, 0)
    optimized = [
        p for part in optimizers(model, 0.006, 0.003, 0.1) for group in part.param_groups for p in group["params"]
    ]
    assert sorted(map(id, optimized)) == sorted(map(id, model.parameters()))
    save(model, PreTrainedTokenizerFast.from_pretrained(tiny_llama), tmp_path)
    arguments = argparse.Namespace(family=family, batch=2, seed=0, out=tmp_path, compile=False)
    write_card(arguments, model, epoch_tokens=1000, steps=10, seconds=60, loss=2.0)
    loaded = load_model(str(tmp_path))
    assert loaded.model.config.model_type == family
    torch.testing.assert_close(loaded.model.lm_head.weight, model.lm_head.weight, atol=1e-3, rtol=1e-3)
    card = (tmp_path / "README.md").read_text()
    assert f"--family {family}" in card and "perplexity 7.39" in card
    assert f"hidden {model.config.hidden_size}" in " ".join(card.split())


def test_a_second_run_continues_from_saved_weights_and_lowers_the_loss(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "The module provides functions to read and write files. " * 40
    monkeypatch.setattr(train, "documents", lambda split: [Document(f"topic:{i}", text) for i in range(3)])
    monkeypatch.setattr(train, "CONTEXT", 16)
    arguments = argparse.Namespace(
        family="llama", epochs=0.5, batch=2, topic_repeats=1, start=tiny_llama, muon_rate=0.006, adam_rate=0.003,
        weight_decay=0.1, warmup=2, check_every=5, seed=0, compile=False, out=tmp_path,
    )  # fmt: skip
    train.train(arguments)
    losses = [float(line.split("held out ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(losses) > 2 and losses[-1] < losses[0]
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert not torch.equal(saved.lm_head.weight, AutoModelForCausalLM.from_pretrained(tiny_llama).lm_head.weight)
    assert "Training: " in (tmp_path / "README.md").read_text()
