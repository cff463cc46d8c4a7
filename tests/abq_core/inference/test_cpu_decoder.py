"""The CPU decoder computes what transformers' modules compute, and stores each weight once."""

from pathlib import Path

import pytest
import torch
from decoder_cases import CAPACITY, DECODED, by_decoder, by_modules, load_families
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from abq_core.inference.block_parts import parts_of
from abq_core.inference.cpu_decoder import CpuDecoder
from abq_core.inference.generate import Token, generate
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.runtime import rounded_model, weight_bytes
from abq_core.mix import MixedLinear, ModelPrecision, PrecisionMix
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import PackedLinear, linears_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, LoadedModel]:
    return load_families(DECODED, tmp_path_factory.mktemp("models"), tiny_llama)


def assert_decodes_as_its_modules(base: LoadedModel, precision: ModelPrecision) -> None:
    model = rounded_model(base, precision, "packed")
    assert isinstance(model.decoder, CpuDecoder)
    cache = PreallocatedCache(model.model.config, CAPACITY, model.decoder.kv_bits)
    found = by_decoder(model, model.decoder, cache)
    torch.testing.assert_close(found, by_modules(model), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["W4A16", "W4A16kv8", "W4A16kv4", "W4A16kv3", "W4A16kv2", "W4A16h8e8"])
@pytest.mark.parametrize("case", DECODED)
def test_hidden_states_equal_those_of_the_modules(case: str, precision: str, models: dict[str, LoadedModel]) -> None:
    assert_decodes_as_its_modules(models[case], Precision.parse(precision))


def test_a_width_that_is_no_multiple_of_packed_columns(tmp_path: Path, tiny_llama: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_llama)
    config.hidden_size, config.head_dim = 48, 12
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    base = load_model(str(tmp_path))
    assert_decodes_as_its_modules(base, Precision.parse("W4A16"))
    packed = rounded_model(base, Precision.parse("W4A8h8"), "packed")
    assert sum(isinstance(step, Token) for step in generate({"": packed}, None, "def open", 3)) == 3


def test_a_mix_of_precisions(models: dict[str, LoadedModel]) -> None:
    base = models["llama"]
    mixed = [
        MixedLinear(index, name, Precision.parse("W3A16" if "k_proj" in name else "W4A16"), linear.weight.numel())
        for index, block in enumerate(blocks_of(base.model))
        for name, linear in linears_of(block).items()
    ]
    assert_decodes_as_its_modules(base, PrecisionMix(tuple(mixed)))


def test_stacked_weights_are_stored_once(models: dict[str, LoadedModel]) -> None:
    model = rounded_model(models["llama"], Precision.parse("W2A8"), "packed")
    before = weight_bytes(model)
    parts = parts_of(model.model)
    assert parts is not None
    decoder = CpuDecoder(model.model, parts)
    assert weight_bytes(model) == before
    attention = blocks_of(model.model)[0].self_attn
    linears = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert all(isinstance(linear, PackedLinear) for linear in linears)
    owners = {id(linear.packed.data.base) for linear in linears}
    assert len(owners) == 1 and decoder.kv_bits is None
