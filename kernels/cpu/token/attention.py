"""Attention of one token over a KV cache of floats: blocks of positions, each read once for all heads that share it.

A part of the positions gives weights that are not divided by their sum. `merge` joins the parts, so threads can share
a long cache.
"""

from functools import partial

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.token.operations import exp, tanh

BLOCK = 64  # positions; their keys stay in the L1 cache
_UNROLLED = 4  # positions that are multiplied at once


@compiled
def attend(
    query: Array,
    keys: Array,
    values: Array,
    positions: tuple[int, int],
    limits: tuple[np.float32, np.float32],
    out: Array,
    highest: Array,
    total: Array,
) -> None:
    """Attention over part of a cache: out = sum of exp(score - highest) * value, total = sum of exp(score - highest).

    query, out: (heads, d).  keys, values: (kv_heads, capacity, d).  highest, total: (heads,).  All float32.
    positions: the first one, and the one after the last.  limits: those of `weights_of`.
    """
    kv_heads, first, last = keys.shape[0], positions[0], positions[1]
    group = query.shape[0] // kv_heads
    scores = np.empty((group, last - first), np.float32)
    out[:] = 0
    for kv in range(kv_heads):
        heads = slice(kv * group, (kv + 1) * group)
        for start in range(first, last, BLOCK):
            end = min(last, start + BLOCK)
            dots(query[heads], keys[kv, start:end], scores[:, start - first : end - first])
        weights_of(scores, limits, highest[heads], total[heads])
        for start in range(first, last, BLOCK):
            end = min(last, start + BLOCK)
            add_values(scores[:, start - first : end - first], values[kv, start:end], out[heads])


@compiled
def merge(parts: Array, highest: Array, total: Array, out: Array) -> None:
    """The attention over all parts: parts (parts, heads, d), highest and total (parts, heads), out (heads, d)."""
    out[:] = 0
    for head in range(out.shape[0]):
        top = highest[:, head].max()
        whole = np.float32(0)
        for part in range(parts.shape[0]):
            factor = exp(highest[part, head] - top)
            whole += factor * total[part, head]
            for i in range(out.shape[1]):
                out[head, i] += factor * parts[part, head, i]
        for i in range(out.shape[1]):
            out[head, i] /= whole


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
def weights_of(scores: Array, limits: tuple[np.float32, np.float32], highest: Array, total: Array) -> None:
    """Replace dot products (heads, tokens) by exp(score - highest) in place; write the highest scores and the sums.

    limits: (factor of the dot products, softcap).  With a softcap, a score is softcap * tanh(score / softcap); 0: none.
    The sum is NaN if one score is not finite.
    """
    scale, softcap = limits
    for head in range(scores.shape[0]):
        row = scores[head]
        for t in range(row.size):
            row[t] *= scale
        if softcap > 0:
            for t in range(row.size):
                row[t] = softcap * tanh(row[t] / softcap)
        top, whole = row[0], np.float32(0)
        for t in range(row.size):
            top = max(top, row[t])
            whole += row[t] * np.float32(0)
        for t in range(row.size):
            row[t] = exp(row[t] - top)
            whole += row[t]
        highest[head], total[head] = top, whole


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
