"""The operations between packed products: norm, RoPE, attention and gate."""

from functools import partial

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = (
    np.float32(0.693359375),
    np.float32(-2.12194440e-4),
)  # ln 2 in two parts, so that n * _LN2_HIGH is exact
_C2, _C3, _C4, _C5, _C6 = (np.float32(c) for c in (1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720))
_ONE = np.float32(1)


@compiled
def exp(x: np.float32) -> np.float32:
    """e^x within a few ulp, without a library call, so that LLVM vectorizes loops over it.

    NaN stays NaN.
    """
    x = np.float32(-87) if x < np.float32(-87) else x
    x = np.float32(88) if x > np.float32(88) else x
    n = np.rint(x * _LOG2_E)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    series = _ONE + r * (_ONE + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    return series * np.int32(np.int32(np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@partial(compiled, reorder_sums=True)
def add_norm(x: Array, added: Array, weight: Array, epsilon: np.float32, out: Array) -> np.float32:
    """x += added (skipped if empty); out = weight * x / sqrt(mean(x^2) + epsilon).

    All (k,) float32.
    Returns the sum of squares, which is not finite if x has NaN, infinity, or values whose squares overflow.
    """
    if added.size:
        for i in range(x.size):
            x[i] += added[i]
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * x[i]
    factor = _ONE / np.sqrt(total / np.float32(x.size) + epsilon)
    for i in range(x.size):
        out[i] = weight[i] * (x[i] * factor)
    return total


@compiled
def gated(gate_up: Array, out: Array) -> None:
    """out = silu(gate) * up for gate_up (2 k,) float32, gate first; out (k,)."""
    k = out.size
    gate, up = gate_up[:k], gate_up[k:]
    for i in range(k):
        out[i] = gate[i] / (_ONE + exp(-gate[i])) * up[i]


@compiled
def rotate(x: Array, cos: Array, sin: Array) -> None:
    """Rotary position embedding of x (heads, d) in place; channel i is paired with i + d / 2.

    cos, sin: (d,).
    """
    half = x.shape[1] // 2
    for head in range(x.shape[0]):
        for i in range(half):
            low, high = x[head, i], x[head, i + half]
            x[head, i] = low * cos[i] - high * sin[i]
            x[head, i + half] = high * cos[i + half] + low * sin[i + half]


@partial(compiled, reorder_sums=True)
def attend(query: Array, keys: Array, values: Array, first: int, last: int, scale: np.float32, out: Array) -> None:
    """Softmax attention of one token over positions first .. last - 1 of a cache.

    query, out: (heads, d); keys, values: (kv_heads, capacity, d); all float32, contiguous.
    """
    heads, d = query.shape
    group = heads // keys.shape[0]
    tokens = last - first
    scores = np.empty(tokens, np.float32)
    for head in range(heads):
        kv = head // group
        for t in range(tokens):
            total = np.float32(0)
            for i in range(d):
                total += query[head, i] * keys[kv, first + t, i]
            scores[t] = total * scale
        softmax(scores)
        for i in range(d):
            out[head, i] = 0
        for t in range(tokens):
            for i in range(d):
                out[head, i] += scores[t] * values[kv, first + t, i]


@partial(compiled, reorder_sums=True)
def softmax(scores: Array) -> None:
    """Softmax of (tokens,) float32 in place; all NaN if one score is not finite."""
    highest, total = scores[0], np.float32(0)
    for t in range(scores.size):
        highest = max(highest, scores[t])
        total += scores[t] * np.float32(0)
    for t in range(scores.size):
        scores[t] = exp(scores[t] - highest)
        total += scores[t]
    for t in range(scores.size):
        scores[t] /= total
