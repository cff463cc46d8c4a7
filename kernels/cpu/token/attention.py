"""Attention of one token over a KV cache: blocks of positions, each read once for the heads that share it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.token import kv_codes
from kernels.cpu.token.operations import exp, tanh

BLOCK = 64  # positions; their keys stay in the L1 cache
_UNROLLED = 4  # positions that are multiplied at once


def _block_of(stored: Any, kv: int, start: int, scratch: Array) -> Array:
    """Keys or values of one head from position `start`, as many as scratch (tokens, d) has, which codes are read to."""
    raise NotImplementedError  # compiled code calls one of the two below


@overload(_block_of)
def _choose_block_of(stored: Any, kv: Any, start: Any, scratch: Any) -> Callable[..., Array]:
    # Numba compares the annotations of all three signatures, too.
    def of_floats(stored: Any, kv: Any, start: Any, scratch: Any) -> Array:
        return stored[kv, start : start + scratch.shape[0]]

    def of_codes(stored: Any, kv: Any, start: Any, scratch: Any) -> Array:
        kv_codes.read(stored, kv, start, scratch)
        return scratch

    return of_floats if isinstance(stored, types.Array) else of_codes


@compiled
def attend(
    query: Array,
    keys: Array | tuple[Array, Array, Array],
    values: Array | tuple[Array, Array, Array],
    kv_heads: int,
    positions: tuple[int, int],
    heads: tuple[int, int],
    limits: tuple[np.float32, np.float32],
    out: Array,
) -> None:
    """Softmax attention of one token over part of a cache, for some of its heads.

    query, out: (heads, d).  keys, values: (kv_heads, capacity, d), or (codes, scale, zero) as in `kv_codes.write`.
    positions, heads: the first one, and the one after the last.  limits: those of `weights_of`.  Floats are float32.
    """
    first, last = positions
    group = query.shape[0] // kv_heads
    scores, scratch = np.empty((group, last - first), np.float32), np.empty((BLOCK, query.shape[1]), np.float32)
    for kv in range(heads[0] // group, -(-heads[1] // group)):
        sharing = slice(max(heads[0], kv * group), min(heads[1], (kv + 1) * group))
        queries, results = query[sharing], out[sharing]
        weights = scores[: queries.shape[0]]
        for start in range(first, last, BLOCK):
            end = min(last, start + BLOCK)
            block = _block_of(keys, kv, start, scratch[: end - start])
            dots(queries, block, weights[:, start - first : end - first])
        weights_of(weights, limits)
        results[:] = 0
        for start in range(first, last, BLOCK):
            end = min(last, start + BLOCK)
            block = _block_of(values, kv, start, scratch[: end - start])
            add_values(weights[:, start - first : end - first], block, results)


@partial(compiled, reorder_sums=True)
def dots(query: Array, keys: Array, out: Array) -> None:
    """out (heads, tokens) = query (heads, d) times the transpose of keys (tokens, d)."""
    tokens, d = keys.shape
    whole = tokens - tokens % _UNROLLED
    for head in range(query.shape[0]):
        q = query[head]
        for t in range(0, whole, _UNROLLED):
            k0, k1, k2, k3 = keys[t], keys[t + 1], keys[t + 2], keys[t + 3]
            s0 = s1 = s2 = s3 = np.float32(0)
            for i in range(d):
                s0 += q[i] * k0[i]
                s1 += q[i] * k1[i]
                s2 += q[i] * k2[i]
                s3 += q[i] * k3[i]
            out[head, t], out[head, t + 1], out[head, t + 2], out[head, t + 3] = s0, s1, s2, s3
        for t in range(whole, tokens):
            s0 = np.float32(0)
            for i in range(d):
                s0 += q[i] * keys[t, i]
            out[head, t] = s0


@partial(compiled, reorder_sums=True)
def weights_of(scores: Array, limits: tuple[np.float32, np.float32]) -> None:
    """Replace dot products (heads, tokens) by the softmax of the scores, in place; all NaN if one is not finite.

    limits: (factor of the dot products, softcap).  With a softcap, a score is softcap * tanh(score / softcap); 0: none.
    """
    scale, softcap = limits
    for head in range(scores.shape[0]):
        row = scores[head]
        for t in range(row.size):
            row[t] *= scale
        if softcap > 0:
            for t in range(row.size):
                row[t] = softcap * tanh(row[t] / softcap)
        highest, total = row[0], np.float32(0)
        for t in range(row.size):
            highest = max(highest, row[t])
            total += row[t] * np.float32(0)
        for t in range(row.size):
            row[t] = exp(row[t] - highest)
            total += row[t]
        for t in range(row.size):
            row[t] /= total


@partial(compiled, reorder_sums=True)
def add_values(weights: Array, values: Array, out: Array) -> None:
    """out (heads, d) += weights (heads, tokens) times values (tokens, d)."""
    tokens, d = values.shape
    whole = tokens - tokens % _UNROLLED
    for head in range(out.shape[0]):
        o = out[head]
        for t in range(0, whole, _UNROLLED):
            v0, v1, v2, v3 = values[t], values[t + 1], values[t + 2], values[t + 3]
            w0, w1, w2, w3 = weights[head, t], weights[head, t + 1], weights[head, t + 2], weights[head, t + 3]
            for i in range(d):
                o[i] += w0 * v0[i] + w1 * v1[i] + w2 * v2[i] + w3 * v3[i]
        for t in range(whole, tokens):
            w0 = weights[head, t]
            for i in range(d):
                o[i] += w0 * values[t, i]
