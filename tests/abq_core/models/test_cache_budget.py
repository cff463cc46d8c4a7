"""What a limited KV cache keeps, against a cache that is filled token by token in plain Python."""

import numpy as np
import pytest
import torch

from abq_core.models.attention.cache_budget import CacheBudget

LENGTH = 40


def causal_scores(heads: int, seed: int = 0) -> torch.Tensor:
    """(2, heads, LENGTH, LENGTH), -inf above the diagonal."""
    scores = 3 * torch.randn(2, heads, LENGTH, LENGTH, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)


def by_hand(scores: np.ndarray, budget: CacheBudget) -> np.ndarray:
    """What the queries of one KV head see: bool (LENGTH, LENGTH).  scores: (group, LENGTH, LENGTH)."""
    held: list[int] = []
    mass = np.zeros(LENGTH)
    kept = np.zeros((LENGTH, LENGTH), bool)
    newer = (budget.tokens - budget.sinks + 1) // 2
    for query in range(LENGTH):
        held.append(query)
        if len(held) > budget.tokens:
            if budget.by_mass:
                old = [token for token in held if budget.sinks <= token <= query - newer]
                held.remove(min(old, key=lambda token: mass[token]))
            else:
                held.remove(held[budget.sinks])
        kept[query, held] = True
        for head in scores:
            weights = np.exp(head[query, held] - head[query, held].max())
            mass[held] += weights / weights.sum()
    return kept


@pytest.mark.parametrize("by_mass", [False, True])
@pytest.mark.parametrize(("tokens", "sinks"), [(8, 0), (10, 4), (3, 1), (LENGTH, 4)])
def test_it_keeps_what_a_cache_would(tokens: int, sinks: int, by_mass: bool) -> None:
    budget, scores = CacheBudget(tokens, sinks, by_mass), causal_scores(4)
    kept = budget.kept(scores, 2)
    assert kept.shape == scores.shape and kept.sum(-1).max() == min(tokens, LENGTH)
    for batch in range(2):
        for kv_head in range(2):
            heads = slice(2 * kv_head, 2 * kv_head + 2)
            expected = by_hand(scores[batch, heads].double().numpy(), budget)
            for head in kept[batch, heads]:
                assert np.array_equal(head.numpy(), expected)


def test_a_cache_too_small_for_its_sinks_is_refused() -> None:
    for tokens, sinks in ((4, 4), (5, 4), (8, -1)):
        with pytest.raises(ValueError, match="cannot keep"):
            CacheBudget(tokens, sinks)
