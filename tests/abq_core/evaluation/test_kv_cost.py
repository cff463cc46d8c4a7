"""Smaller KV caches by simulation: nothing changes with all of it, bits are those of a precision, tokens are hidden."""

import pytest
import torch
from torch import Tensor

from abq_core.evaluation.kv_cost import CacheSize, kv_cost
from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.runtime import rounded_model
from abq_core.models.architectures import blocks_of
from abq_core.models.attention.cache_budget import CacheBudget
from abq_core.models.attention.function import attention_maps, set_cache_budget
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision


def test_the_whole_cache_at_16_bits_is_full_precision(base: LoadedModel, ids: Tensor) -> None:
    scores = kv_cost(base, base, CacheSize(16), ids)
    assert scores.kl_mean == pytest.approx(0, abs=1e-6) and scores.same_top == 1
    everything = kv_cost(base, base, CacheSize(16, CacheBudget(24)), ids)
    assert everything.perplexity == pytest.approx(scores.perplexity, rel=1e-4)
    assert everything.kl_mean == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("bits", [4, 2])
def test_bits_are_those_of_a_precision(base: LoadedModel, ids: Tensor, bits: int) -> None:
    rounded = rounded_model(base, Precision.parse(f"W16A16kv{bits}"), "simulated")
    expected = evaluate(rounded, base, ids)
    found = kv_cost(base, base, CacheSize(bits), ids)
    assert found.kl_mean == pytest.approx(expected.kl_mean, rel=1e-3)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-4)


def test_the_bits_of_a_run_do_not_count(base: LoadedModel, ids: Tensor) -> None:
    run = rounded_model(base, Precision.parse("W4A8kv2"), "simulated")
    without = rounded_model(base, Precision.parse("W4A8"), "simulated")
    found, expected = (kv_cost(model, base, CacheSize(16), ids) for model in (run, without))
    assert found.kl_mean == pytest.approx(expected.kl_mean, rel=1e-4)


@pytest.mark.parametrize("by_mass", [False, True])
def test_fewer_tokens_cost_more_and_leave_the_model_alone(base: LoadedModel, ids: Tensor, by_mass: bool) -> None:
    kl = [
        kv_cost(base, base, CacheSize(16, CacheBudget(tokens, by_mass=by_mass)), ids).kl_mean for tokens in (20, 12, 6)
    ]
    assert 0 < kl[0] < kl[1] < kl[2]
    assert kv_cost(base, base, CacheSize(16), ids).kl_mean == pytest.approx(0, abs=1e-6)


def test_a_dropped_token_gets_no_attention(base: LoadedModel, ids: Tensor) -> None:
    block, budget = blocks_of(base.model)[0], CacheBudget(8)
    try:
        set_cache_budget(block, budget)
        with attention_maps(block) as maps, torch.inference_mode():
            base.hidden(ids)
    finally:
        set_cache_budget(block, None)
    assert torch.equal(maps[0] > 0, budget.kept(maps[0].log(), 2))


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_bytes_are_those_of_the_engine(base: LoadedModel, bits: int) -> None:
    cache = PreallocatedCache(base.model.config, 24, bits)
    for layer in cache.layers:
        layer.lazy_initialization(torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16))
    assert CacheSize(bits).bytes_for(base, 24) == sum(layer.nbytes for layer in cache.layers)
    assert CacheSize(bits, CacheBudget(12)).bytes_for(base, 24) == CacheSize(bits).bytes_for(base, 12)
    assert CacheSize(16).bytes_for(base, 24) == 2 * 2 * 2 * 16 * 24 * 2  # K and V, blocks, kv heads, channels, tokens
