"""Decoding with a cache of fixed size: what transformers' own cache gives, by its modules and by the short way."""

from pathlib import Path

import pytest
import torch
from decoder_cases import DECODED, FOLLOWING, PROMPT
from family_cases import CONFIGS, family_folder
from torch import Tensor
from transformers import DynamicCache

from abq_core.inference.cpu_decoder import CpuDecoder
from abq_core.inference.decoder import decoder_of
from abq_core.inference.generate import Token, generate
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.runtime import rounded_model, weight_bytes
from abq_core.mix import MixedLinear, PrecisionMix
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import PackedLinear, linears_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("decoded")
    return {case: family_folder(case, root / case, tiny_llama) for case in CONFIGS}


def read_on(model: LoadedModel, cache: DynamicCache) -> Tensor:
    """Hidden states of the prompt, then of one token after the other, by transformers' modules."""
    parts = [PROMPT, *([token] for token in FOLLOWING)]
    with torch.inference_mode():
        return torch.cat([model.hidden(torch.tensor([part]), cache)[0] for part in parts])


def decode_on(model: LoadedModel, cache: PreallocatedCache) -> Tensor:
    """The hidden states of the following tokens, by the decoder."""
    decoder = model.decoder
    assert decoder is not None
    with torch.inference_mode():
        model.hidden(torch.tensor([PROMPT]), cache)
        return torch.stack([decoder.hidden(token, cache) for token in FOLLOWING])


@pytest.mark.parametrize("case", CONFIGS)
def test_a_cache_of_fixed_size_changes_nothing(case: str, folders: dict[str, Path]) -> None:
    model = load_model(str(folders[case]))
    cache = PreallocatedCache(model.model.config, len(PROMPT) + len(FOLLOWING))
    expected = read_on(model, DynamicCache(config=model.model.config))
    torch.testing.assert_close(read_on(model, cache), expected, rtol=1e-5, atol=1e-5)
    assert cache.get_seq_length() == len(PROMPT) + len(FOLLOWING)


@pytest.mark.parametrize("precision", ["W4A16", "W4A16kv8", "W4A16kv4", "W4A16kv3", "W4A16kv2"])
@pytest.mark.parametrize("case", DECODED)
def test_the_decoder_computes_what_the_modules_do(case: str, precision: str, folders: dict[str, Path]) -> None:
    model = rounded_model(load_model(str(folders[case])), Precision.parse(precision), "packed")
    assert model.decoder is not None
    expected = read_on(model, DynamicCache(config=model.model.config))[len(PROMPT) :]
    cache = PreallocatedCache(model.model.config, len(PROMPT) + len(FOLLOWING), model.decoder.kv_bits)
    torch.testing.assert_close(decode_on(model, cache), expected, rtol=1e-3, atol=1e-3)


def test_keys_and_values_take_their_bits(folders: dict[str, Path]) -> None:
    held = {}
    for precision in ("W4A8", "W4A8kv8", "W4A8kv4", "W4A8kv2"):
        model = rounded_model(load_model(str(folders["llama"])), Precision.parse(precision), "packed")
        assert model.decoder is not None
        cache = PreallocatedCache(model.model.config, 100, model.decoder.kv_bits)
        decode_on(model, cache)
        held[precision] = cache.nbytes
    kv_heads, d, positions = 2, 16, 2 * 100
    assert held["W4A8"] == 2 * kv_heads * d * positions * 4
    for bits in (8, 4, 2):
        assert held[f"W4A8kv{bits}"] == 2 * kv_heads * positions * (d * bits // 8 + 8)


def test_other_forms_have_no_decoder(folders: dict[str, Path]) -> None:
    w4a8 = Precision.parse("W4A8")
    for case in ("qwen3", "gemma2", "opt", "mixtral"):
        assert rounded_model(load_model(str(folders[case])), w4a8, "packed").decoder is None
    base = load_model(str(folders["llama"]))
    for precision, engine in (("W4A8", "simulated"), ("W16A8", "packed")):
        assert rounded_model(base, Precision.parse(precision), engine).decoder is None  # type: ignore[arg-type]
    assert base.decoder is None and decoder_of(base.model) is None


def test_weights_that_read_one_input_are_held_once(folders: dict[str, Path]) -> None:
    model = rounded_model(load_model(str(folders["llama"])), Precision.parse("W2A8"), "packed")
    before = weight_bytes(model)
    decoder = CpuDecoder(model.model)
    assert weight_bytes(model) == before
    attention = blocks_of(model.model)[0].self_attn
    linears = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert all(isinstance(linear, PackedLinear) for linear in linears)
    owners = {id(linear.packed.data.base) for linear in linears}
    assert len(owners) == 1 and decoder.kv_bits is None


def test_a_mix_of_precisions_decodes_as_its_modules(folders: dict[str, Path]) -> None:
    base = load_model(str(folders["llama"]))
    mixed = [
        MixedLinear(index, name, Precision.parse("W3A16" if "k_proj" in name else "W4A16"), linear.weight.numel())
        for index, block in enumerate(blocks_of(base.model))
        for name, linear in linears_of(block).items()
    ]
    model = rounded_model(base, PrecisionMix(tuple(mixed)), "packed")
    expected = read_on(model, DynamicCache(config=model.model.config))[len(PROMPT) :]
    cache = PreallocatedCache(model.model.config, len(PROMPT) + len(FOLLOWING))
    torch.testing.assert_close(decode_on(model, cache), expected, rtol=1e-3, atol=1e-3)


def test_generation_takes_the_decoder(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = rounded_model(load_model(str(folders["llama"])), Precision.parse("W4A16"), "packed")
    model.tokenizer.eos_token = None
    model.model.generation_config.eos_token_id = None
    short = [e.id for e in generate({"a": model}, None, "The module", 8) if isinstance(e, Token)]
    model.decoder = None
    assert [e.id for e in generate({"a": model}, None, "The module", 8) if isinstance(e, Token)] == short
