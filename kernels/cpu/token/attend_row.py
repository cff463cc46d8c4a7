"""The row ATTEND of a token program: what it does with the layer of a KV cache, for all heads or some."""

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.token import attention, kv_codes, operations
from kernels.cpu.token.addresses import array_at, float_of
from kernels.cpu.token.rows import (
    BITS,
    CAPACITY,
    COS,
    HEADS,
    INPUT,
    INPUT_SIZE,
    KEY_SCALE,
    KEY_ZERO,
    KEYS,
    KV_HEADS,
    OUTPUT,
    OUTPUT_SIZE,
    ROPE,
    ROTATED,
    SCALING,
    SIN,
    SOFTCAP,
    VALUE_SCALE,
    VALUE_ZERO,
    VALUES,
    WIDTH,
    WINDOW,
)  # fmt: skip


@compiled
def visible(layer: Array, position: int) -> tuple[int, int]:
    """The positions that the token at `position` sees: the first one, and the one after the last."""
    return max(0, position + 1 - layer[WINDOW]) if layer[WINDOW] else 0, position + 1


@compiled
def append(row: Array, buffers: Array, layer: Array, position: int) -> bool:
    """Rotate queries and keys, and write keys and values to the cache. Returns whether these can be stored."""
    heads, kv_heads = row[HEADS], row[KV_HEADS]
    d = row[OUTPUT_SIZE] // heads
    qkv = array_at(buffers[row[INPUT]], np.float32, row[INPUT_SIZE]).reshape(heads + 2 * kv_heads, d)
    rope = 4 * row[ROPE] * row[ROTATED]
    cos = array_at(buffers[COS] + rope, np.float32, row[ROTATED])
    operations.rotate(qkv[: heads + kv_heads], cos, array_at(buffers[SIN] + rope, np.float32, row[ROTATED]))
    new_keys, new_values = qkv[heads : heads + kv_heads], qkv[heads + kv_heads :]
    bits, width = layer[BITS], layer[WIDTH]
    if bits == 0:
        keys, values = _floats(layer, kv_heads, d)
        keys[:, position], values[:, position] = new_keys, new_values
        return True
    stored_keys, stored_values = _codes(layer, kv_heads, d)
    one = (kv_heads, 1, d)
    written = kv_codes.write(new_keys.reshape(one), bits, width, position, *stored_keys)
    return written and kv_codes.write(new_values.reshape(one), bits, width, position, *stored_values)


@compiled
def attend(row: Array, buffers: Array, layer: Array, position: int, heads: tuple[int, int]) -> None:
    """Attention of some heads over all positions that the token sees; `append` comes first."""
    kv_heads, d = row[KV_HEADS], row[OUTPUT_SIZE] // row[HEADS]
    query = array_at(buffers[row[INPUT]], np.float32, row[OUTPUT_SIZE]).reshape(row[HEADS], d)
    out = array_at(buffers[row[OUTPUT]], np.float32, row[OUTPUT_SIZE]).reshape(row[HEADS], d)
    limits, positions = (float_of(row[SCALING]), float_of(row[SOFTCAP])), visible(layer, position)
    if layer[BITS] == 0:
        keys, values = _floats(layer, kv_heads, d)
        attention.attend(query, keys, values, kv_heads, positions, heads, limits, out)
    else:
        stored_keys, stored_values = _codes(layer, kv_heads, d)
        attention.attend(query, stored_keys, stored_values, kv_heads, positions, heads, limits, out)


@compiled
def _floats(layer: Array, kv_heads: int, d: int) -> tuple[Array, Array]:
    """Keys and values of a layer of floats, (kv_heads, capacity, d) each."""
    shape = (kv_heads, layer[CAPACITY], d)
    size = kv_heads * layer[CAPACITY] * d
    keys, values = array_at(layer[KEYS], np.float32, size), array_at(layer[VALUES], np.float32, size)
    return keys.reshape(shape), values.reshape(shape)


@compiled
def _codes(layer: Array, kv_heads: int, d: int) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Keys and values of a quantized layer, as `kv_codes` takes them."""
    capacity, octets = layer[CAPACITY], d * layer[WIDTH] // 8
    return (
        _stored(layer[KEYS], layer[KEY_SCALE], layer[KEY_ZERO], kv_heads, capacity, octets),
        _stored(layer[VALUES], layer[VALUE_SCALE], layer[VALUE_ZERO], kv_heads, capacity, octets),
    )


@compiled
def _stored(codes: int, scale: int, zero: int, kv_heads: int, capacity: int, octets: int) -> tuple[Array, Array, Array]:
    """Codes, scales and zero points at their addresses, as `kv_codes` takes them."""
    return (
        array_at(codes, np.uint8, kv_heads * capacity * octets).reshape(kv_heads, capacity, octets),
        array_at(scale, np.float32, kv_heads * capacity).reshape(kv_heads, capacity),
        array_at(zero, np.float32, kv_heads * capacity).reshape(kv_heads, capacity),
    )
