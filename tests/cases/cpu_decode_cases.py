"""Random arrays and reference attention for the tests of decode operations on the CPU."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> Floats:
    return RANDOM.standard_normal(shape, np.float32)


def attention(query: Floats, keys: Floats, values: Floats, scale: float) -> NDArray[np.float64]:
    """Reference softmax attention; keys, values: (kv_heads, tokens, d)."""
    group = len(query) // len(keys)
    keys, values = np.repeat(keys, group, 0).astype(np.float64), np.repeat(values, group, 0).astype(np.float64)
    scores = np.einsum("hd,htd->ht", query, keys) * scale
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.einsum("ht,htd->hd", weights / weights.sum(1, keepdims=True), values).reshape(1, -1)
