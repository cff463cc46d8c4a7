"""The row ATTEND of a token program: attention on the layer of a KV cache, by one thread or in parts."""

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
def attend(row: Array, buffers: Array, layer: Array, position: int) -> bool:
    """`append`, and attention over all positions that the token sees. Returns whether its keys can be stored."""
    heads = row[HEADS]
    if not append(row, buffers, layer, position):
        return False
    part = np.empty((1, heads, row[OUTPUT_SIZE] // heads), np.float32)
    highest, total = np.empty((2, 1, heads), np.float32)
    attend_part(row, buffers, layer, visible(layer, position), part[0], highest[0], total[0])
    merge_parts(row, buffers, part, highest, total)
    return True


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
def attend_part(
    row: Array,
    buffers: Array,
    layer: Array,
    positions: tuple[int, int],
    out: Array,
    highest: Array,
    total: Array,
) -> None:
    """`attention.attend` of the queries over part of the positions, on what the layer holds."""
    heads, kv_heads = row[HEADS], row[KV_HEADS]
    d = row[OUTPUT_SIZE] // heads
    query = array_at(buffers[row[INPUT]], np.float32, row[INPUT_SIZE])[: heads * d].reshape(heads, d)
    limits = float_of(row[SCALING]), float_of(row[SOFTCAP])
    if layer[BITS] == 0:
        keys, values = _floats(layer, kv_heads, d)
        attention.attend(query, keys, values, positions, limits, out, highest, total)
    else:
        stored_keys, stored_values = _codes(layer, kv_heads, d)
        kv_codes.attend(query, stored_keys, stored_values, positions, limits, out, highest, total)


@compiled
def merge_parts(row: Array, buffers: Array, parts: Array, highest: Array, total: Array) -> None:
    """Write the attention over all parts (`attention.merge`)."""
    out = array_at(buffers[row[OUTPUT]], np.float32, row[OUTPUT_SIZE])
    attention.merge(parts, highest, total, out.reshape(parts.shape[1], parts.shape[2]))


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
