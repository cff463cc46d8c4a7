"""Random arrays, programs of one operation and reference attention for the tests of decode steps on the CPU."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.token.rows import LAYER_SIZE
from kernels.kv_codes import KvCodes
from kernels.token_program import ATTENDED, COS, QKV, SIN, Memory, Operation, Program, buffer_sizes, float_layer

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


def run_one(
    operation: Operation,
    inputs: Mapping[int, Floats],
    layers: NDArray[np.int64] | None = None,
    position: int = 0,
) -> Memory:
    """Run one operation on these buffers."""
    memory = Memory(buffer_sizes([operation]), np.zeros((0, LAYER_SIZE), np.int64) if layers is None else layers)
    for buffer, values in inputs.items():
        memory.values[buffer][: values.size] = values.ravel()
    Program([operation]).run(memory, position)
    return memory


def attended(
    query: Floats,
    keys: Floats,
    values: Floats,
    first: int,
    scale: float,
    bits: int | None = None,
    softcap: float = 0.0,
) -> NDArray[np.float32]:
    """Attention of a query without rotation: the last of keys and values (kv_heads, tokens, d) is that of the token."""
    kv_heads, tokens, d = keys.shape
    window = tokens - first
    if bits is None:
        cache = keys.copy(), values.copy()
        for cached in cache:
            cached[:, -1] = 0
        layer = float_layer(*cache, window)
    else:
        codes = KvCodes(kv_heads, tokens, d, bits)
        codes.write(0, keys[:, :-1], values[:, :-1])
        layer = codes.row(window)
    rows = {QKV: np.concatenate([query, keys[:, -1], values[:, -1]]), COS: np.ones(d, np.float32)}
    operation = Operation.attend(0, len(query), kv_heads, d, scale, softcap=softcap)
    memory = run_one(operation, {**rows, SIN: np.zeros(d, np.float32)}, layer[None], tokens - 1)
    return memory.values[ATTENDED][None].copy()
