"""The operations between packed products other than attention: norms, RoPE and gate."""

from functools import partial

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.token.rows import GELU, GELU_TANH, SILU

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = (
    np.float32(0.693359375),
    np.float32(-2.12194440e-4),
)  # ln 2 in two parts, so that n * _LN2_HIGH is exact
_C2, _C3, _C4, _C5, _C6 = (np.float32(c) for c in (1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720))
_ONE, _TWO, _HALF = np.float32(1), np.float32(2), np.float32(0.5)
# Abramowitz and Stegun 7.1.26: erf to 1.5e-7
_ERF_P = np.float32(0.3275911)
_E1, _E2, _E3, _E4, _E5 = (np.float32(c) for c in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
_ROOT_HALF, _ROOT_2_OVER_PI = np.float32(0.5**0.5), np.float32((2 / np.pi) ** 0.5)
_GELU_CUBE = np.float32(0.044715)


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


@compiled
def add(x: Array, added: Array) -> None:
    """x += added, both (k,) float32."""
    for i in range(added.size):
        x[i] += added[i]


@partial(compiled, reorder_sums=True)
def rms_norm(x: Array, weight: Array, epsilon: np.float32, out: Array) -> np.float32:
    """out = weight * x / sqrt(mean(x^2) + epsilon), all (k,) float32.

    Returns the sum of squares. It is not finite if x has NaN, infinity, or values whose squares overflow; then out is
    not written.
    """
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * x[i]
    if not np.isfinite(total):
        return total
    factor = _ONE / np.sqrt(total / np.float32(x.size) + epsilon)
    for i in range(x.size):
        out[i] = weight[i] * (x[i] * factor)
    return total


@partial(compiled, reorder_sums=True)
def layer_norm(x: Array, weight: Array, bias: Array, epsilon: np.float32, out: Array) -> np.float32:
    """out = weight * (x - mean) / sqrt(variance + epsilon) + bias, all (k,) float32.

    Returns the sum of squared deviations. It is not finite if x is not, or if their squares overflow; then out is not
    written.
    """
    mean = np.float32(0)
    for i in range(x.size):
        mean += x[i]
    mean /= np.float32(x.size)
    total = np.float32(0)
    for i in range(x.size):
        total += (x[i] - mean) * (x[i] - mean)
    if not np.isfinite(total):
        return total
    factor = _ONE / np.sqrt(total / np.float32(x.size) + epsilon)
    for i in range(x.size):
        out[i] = weight[i] * ((x[i] - mean) * factor) + bias[i]
    return total


@compiled
def activate(gate: Array, activation: int, out: Array) -> None:
    """out = the activation (`rows.SILU` ...) of gate, both (k,) float32."""
    if activation == SILU:
        for i in range(out.size):
            out[i] = gate[i] / (_ONE + exp(-gate[i]))
    elif activation == GELU:
        for i in range(out.size):
            out[i] = _HALF * gate[i] * (_ONE + _erf(gate[i] * _ROOT_HALF))
    elif activation == GELU_TANH:
        for i in range(out.size):
            x = gate[i]
            out[i] = _HALF * x * (_ONE + tanh(_ROOT_2_OVER_PI * (x + _GELU_CUBE * x * x * x)))
    else:
        for i in range(out.size):
            out[i] = gate[i] if not gate[i] < np.float32(0) else np.float32(0)  # NaN stays NaN


@compiled
def multiply(x: Array, factor: Array) -> None:
    """x *= factor, both (k,) float32."""
    for i in range(factor.size):
        x[i] *= factor[i]


@compiled
def tanh(x: np.float32) -> np.float32:
    """tanh(x) to 1e-7, by `exp`. NaN stays NaN."""
    return _ONE - _TWO / (exp(_TWO * x) + _ONE)


@compiled
def _erf(x: np.float32) -> np.float32:
    """The error function to 2e-7, by `exp`. NaN stays NaN."""
    size = abs(x)
    t = _ONE / (_ONE + _ERF_P * size)
    tail = t * (_E1 + t * (_E2 + t * (_E3 + t * (_E4 + t * _E5)))) * exp(-size * size)
    return _ONE - tail if not x < np.float32(0) else tail - _ONE


@compiled
def regroup(qkv: Array) -> None:
    """(kv_heads, queries + key + value, d) to all queries, all keys and all values, in the same memory."""
    kv_heads, vectors, d = qkv.shape
    group = vectors - 2
    grouped, flat = qkv.copy(), qkv.reshape(kv_heads * vectors, d)
    for kv in range(kv_heads):
        for i in range(group):
            flat[kv * group + i] = grouped[kv, i]
        flat[kv_heads * group + kv] = grouped[kv, group]
        flat[kv_heads * (group + 1) + kv] = grouped[kv, group + 1]


@compiled
def rotate(x: Array, cos: Array, sin: Array) -> None:
    """Rotary position embedding of the first r channels of x (heads, d) in place; channel i is paired with i + r / 2.

    cos, sin: (r,).
    """
    half = cos.size // 2
    for head in range(x.shape[0]):
        for i in range(half):
            low, high = x[head, i], x[head, i + half]
            x[head, i] = low * cos[i] - high * sin[i]
            x[head, i + half] = high * cos[i + half] + low * sin[i + half]
