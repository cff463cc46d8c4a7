"""The preallocated KV cache: equal to transformers on every family; memory; errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cpu_decode_cases import run_one
from decoder_cases import CAPACITY, FOLLOWING, PROMPT, by_decoder, by_modules, load_families
from family_cases import CONFIGS

from abq_core.inference.graph_decoder import GraphDecoder
from abq_core.inference.kv_cache import CacheFullError, PreallocatedCache, PreallocatedLayer
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from kernels.token_program import ATTENDED, COS, QKV, SIN, Operation


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> dict[str, LoadedModel]:
    return load_families(tuple(CONFIGS), tmp_path_factory.mktemp("models"), tiny_llama)


@pytest.mark.parametrize("case", CONFIGS)
def test_hidden_states_equal_those_with_transformers_own_cache(case: str, models: dict[str, LoadedModel]) -> None:
    model = models[case]
    cache = PreallocatedCache(model.model.config, CAPACITY)
    torch.testing.assert_close(by_modules(model, cache), by_modules(model), rtol=1e-5, atol=1e-5)
    assert cache.get_seq_length() == CAPACITY


def test_a_reset_cache_can_be_used_again(models: dict[str, LoadedModel]) -> None:
    model = models["mistral"]
    cache = PreallocatedCache(model.model.config, CAPACITY)
    first = by_modules(model, cache)
    cache.reset()
    assert cache.get_seq_length() == cache.next_position() == 0
    assert torch.equal(by_modules(model, cache), first)


def test_keys_and_values_occupy_their_bits(models: dict[str, LoadedModel]) -> None:
    held = {}
    for precision in ("W4A8", "W4A8kv8", "W4A8kv4", "W4A8kv2"):
        model = rounded_model(models["llama"], Precision.parse(precision), "packed")
        assert model.decoder is not None
        cache = PreallocatedCache(model.model.config, 100, model.decoder.kv_bits)
        assert cache.nbytes == 0  # allocated with the first token
        by_decoder(model, model.decoder, cache)
        held[precision] = cache.nbytes
    kv_heads, d, positions = 2, 16, 2 * 100
    assert held["W4A8"] == 2 * kv_heads * d * positions * 4
    for bits in (8, 4, 2):
        assert held[f"W4A8kv{bits}"] == 2 * kv_heads * positions * (d * bits // 8 + 8)


@pytest.mark.parametrize("kind", ["graph", "cpu"])
def test_a_full_cache_is_a_named_error(kind: str, models: dict[str, LoadedModel]) -> None:
    model = rounded_model(models["llama"], Precision.parse("W4A8"), "packed")
    decoder = GraphDecoder(model.model) if kind == "graph" else model.decoder
    assert decoder is not None
    cache = PreallocatedCache(model.model.config, CAPACITY)
    by_decoder(model, decoder, cache)
    with torch.inference_mode(), pytest.raises(CacheFullError, match=f"capacity is {CAPACITY} tokens"):
        decoder.hidden(1, cache)
    assert cache.get_seq_length() == CAPACITY


@pytest.mark.parametrize(("window", "visible"), [(None, 7), (3, 3), (100, 7)])
def test_a_sliding_window_limits_what_a_token_sees(window: int | None, visible: int) -> None:
    layer = PreallocatedLayer(10, window)
    prompt = torch.arange(6.0).view(1, 1, 6, 1)
    layer.update(prompt, -prompt)
    assert layer.get_mask_sizes(1) == (visible, 7 - visible)
    keys, values = layer.update(torch.full((1, 1, 1, 1), 6.0), torch.full((1, 1, 1, 1), -6.0))
    assert keys.flatten().tolist() == list(range(7 - visible, 7))
    assert torch.equal(values, -keys)
    assert layer.get_seq_length() == 7 and layer.get_max_length() == 10
    assert keys.untyped_storage().data_ptr() == layer.keys.untyped_storage().data_ptr()  # a view, not a copy


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("bits", [None, 8])
def test_a_program_attends_to_a_layer(bits: int | None, window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, d, tokens, scale = 4, 2, 16, len(PROMPT), 0.3
    keys, values = torch.randn((2, 1, kv_heads, tokens + 1, d), generator=generator)
    query = torch.randn((heads, d), generator=generator)
    layer = PreallocatedLayer(tokens + len(FOLLOWING), window, bits)
    layer.update(keys[:, :, :tokens], values[:, :, :tokens])
    newest = [part[0, :, tokens].numpy() for part in (keys, values)]
    inputs = {QKV: np.concatenate([query.numpy(), *newest]), COS: np.ones(d, np.float32), SIN: np.zeros(d, np.float32)}
    memory = run_one(Operation.attend(0, heads, kv_heads, d, scale), inputs, layer.row()[None], tokens)
    first = 0 if window is None else tokens + 1 - window
    grouped = query.view(kv_heads, -1, d)
    weights = torch.softmax(grouped @ keys[0, :, first:].transpose(1, 2) * scale, -1)
    expected = (weights @ values[0, :, first:]).reshape(1, -1)
    tolerance = 1e-5 if bits is None else 3e-2
    found = torch.from_numpy(memory.values[ATTENDED])[None]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
