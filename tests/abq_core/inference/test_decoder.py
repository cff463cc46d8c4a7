"""Which models get which decoder, and that generation uses it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from decoder_cases import load_families

from abq_core.inference.cpu_decoder import CpuDecoder
from abq_core.inference.decoder import decoder_of
from abq_core.inference.generate import Token, generate
from abq_core.inference.graph_decoder import GraphDecoder
from abq_core.inference.placement import to_int8
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision

W4A8 = Precision.parse("W4A8")
OTHER_FORMS = ("falcon", "mixtral", "opt-no-final-norm", "opt-post-norm")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, LoadedModel]:
    return load_families(("llama", *OTHER_FORMS), tmp_path_factory.mktemp("models"), tiny_llama)


def test_packed_llama_models_in_memory_get_the_cpu_decoder(models: dict[str, LoadedModel]) -> None:
    assert isinstance(rounded_model(models["llama"], W4A8, "packed").decoder, CpuDecoder)


@pytest.mark.parametrize("case", OTHER_FORMS)
def test_other_block_forms_have_no_decoder(case: str, models: dict[str, LoadedModel]) -> None:
    assert rounded_model(models[case], W4A8, "packed").decoder is None


def test_models_that_are_not_packed_have_no_decoder_on_the_cpu(models: dict[str, LoadedModel]) -> None:
    base = models["llama"]
    assert base.decoder is None and decoder_of(base.model) is None
    assert rounded_model(base, W4A8, "simulated").decoder is None
    assert rounded_model(base, Precision.parse("W16A8"), "packed").decoder is None


def test_on_a_gpu_all_but_simulated_models_get_the_graph_decoder(
    models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = models["llama"]
    dynamic_rope = replace(base, model=load_model(base.ref).model)
    dynamic_rope.model.model.rotary_emb.rope_type = "dynamic"
    expected = (
        (base, GraphDecoder),
        (to_int8(base), GraphDecoder),
        (rounded_model(base, W4A8, "simulated"), type(None)),
        (dynamic_rope, type(None)),
    )
    monkeypatch.setattr(type(base.model), "device", property(lambda model: torch.device("cuda")))
    monkeypatch.setattr("abq_core.inference.decoder.GraphDecoder", lambda model: GraphDecoder.__new__(GraphDecoder))
    for model, decoder in expected:
        assert type(decoder_of(model.model)) is decoder


def test_generation_uses_the_decoder(models: dict[str, LoadedModel]) -> None:
    model = rounded_model(models["llama"], Precision.parse("W4A16"), "packed")
    model.tokenizer.eos_token = model.model.generation_config.eos_token_id = None  # random weights could end the text
    calls: list[int] = []
    decoder = model.decoder
    assert isinstance(decoder, CpuDecoder)

    class Counted:
        kv_bits = decoder.kv_bits

        def hidden(self, token: int, cache: object) -> torch.Tensor:
            calls.append(token)
            return decoder.hidden(token, cache)  # type: ignore[arg-type]

    def token_ids(column: LoadedModel) -> list[int]:
        return [event.id for event in generate({"a": column}, None, "The module", 8) if isinstance(event, Token)]

    decoded = token_ids(replace(model, decoder=Counted()))
    assert calls == decoded[:-1]  # the prompt goes through the modules
    assert decoded == token_ids(replace(model, decoder=None))
