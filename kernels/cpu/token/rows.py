"""The rows of a token program (`kernels.cpu.token.program`): int64 fields, and how they are filled.

Rows name their inputs and outputs as buffers, of which each call has its own; weights and caches are addresses. Whoever
builds a row keeps its arrays alive.
"""

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.arguments import weight_fields
from kernels.formats.weight import PackedWeight

Table = NDArray[np.int64]

# Buffers, by number: the residual stream, what a block adds to it, the outputs of
# norms and products, and the rotary embedding.
X, ADDED, NORMED, QKV, ATTENDED, GATE_UP, GATED, COS, SIN = range(9)
BUFFERS = 9

NORM, ADD, PRODUCT, REGROUP, ATTEND, GATE = range(6)  # operations
DOT, BIT_PLANES, WEIGHT_ONLY = range(3)  # paths of a product
SILU, GELU, GELU_TANH, RELU = range(4)  # activations of a gate; GELU_TANH approximates GELU by tanh

# Fields of a row: those of all operations, then those of each.
OPERATION, INPUT, OUTPUT, INPUT_SIZE, OUTPUT_SIZE = range(5)
HAS_ADDED, NORM_WEIGHT, NORM_BIAS, EPSILON, NORM_START, NORM_SIZE = range(5, 11)
LAYER, HEADS, KV_HEADS, SCALING, ROTATED, ROPE, SOFTCAP = range(5, 12)
ACTIVATION, HAS_UP = range(5, 7)
(
    PATH, ACT_BITS, OUTPUT_START, BLOCK, ROOT, PANELS, PADDED, DATA, DATA_SIZE, WIDTHS, FIELDS, SEGMENT, SPACING,
    ACT_CLIP, SCALE, ZERO, SUMS, SIDE_SIZE, BIAS, BIAS_SIZE,
) = range(5, 25)  # fmt: skip
ROW_SIZE = 25

# Fields of a layer of the KV cache. BITS 0: float32 keys and values; otherwise codes, scales and zero points of both.
BITS, WIDTH, CAPACITY, WINDOW, KEYS, VALUES, KEY_SCALE, KEY_ZERO, VALUE_SCALE, VALUE_ZERO = range(10)
LAYER_SIZE = 10


def norm_row(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    epsilon: float,
    has_added: bool,
    source: int,
    target: int,
    start: int,
    count: int,
) -> Table:
    """source += ADDED (if has_added), then the norms of `count` vectors from value `start`.

    bias: of a layer norm; None for an RMS norm.
    """
    end = start + count * weight.size
    row = _row(NORM, source, target, end, end)
    row[HAS_ADDED], row[NORM_WEIGHT], row[EPSILON] = has_added, weight.ctypes.data, bits_of(epsilon)
    row[NORM_BIAS] = 0 if bias is None else bias.ctypes.data
    row[NORM_START], row[NORM_SIZE] = start, weight.size
    return row


def add_row(size: int) -> Table:
    """X += ADDED."""
    return _row(ADD, ADDED, X, size, size)


def product_row(
    weight: PackedWeight, act_bits: int, path: int, root: np.float32, source: int, target: int, start: int
) -> Table:
    """A packed weight times a buffer, to values `start` .. of another buffer.

    root: the factor of the weight's Hadamard transform.
    """
    data, widths, segment, spacing, act_clip, scale, zero, sums, bias = weight_fields(weight)
    row = _row(PRODUCT, source, target, weight.k, weight.n)
    row[PATH], row[ACT_BITS], row[OUTPUT_START] = path, act_bits, start
    row[BLOCK], row[ROOT] = weight.hadamard, bits_of(root)
    row[PANELS], row[PADDED] = weight.panels, weight.k_padded
    row[DATA], row[DATA_SIZE], row[WIDTHS], row[FIELDS] = data.ctypes.data, data.size, widths.ctypes.data, widths.size
    row[SEGMENT], row[SPACING], row[ACT_CLIP] = segment, spacing, bits_of(act_clip)
    row[SCALE], row[ZERO], row[SUMS] = scale.ctypes.data, zero.ctypes.data, sums.ctypes.data
    row[SIDE_SIZE], row[BIAS], row[BIAS_SIZE] = scale.size, bias.ctypes.data, bias.size
    return row


def regroup_row(heads: int, kv_heads: int, d: int) -> Table:
    """Bring QKV from the order of kv heads (each with its queries, key and value) to queries, keys, values."""
    size = (heads + 2 * kv_heads) * d
    row = _row(REGROUP, QKV, QKV, size, size)
    row[HEADS], row[KV_HEADS] = heads, kv_heads
    return row


def attend_row(
    layer: int, heads: int, kv_heads: int, d: int, scaling: float, rotated: int, rope: int, softcap: float
) -> Table:
    """Rotate the queries and keys of QKV, append keys and values to a layer of the cache, and attend.

    rotated: channels of each head.  rope: number of the rotary embedding in COS and SIN.  softcap: 0 for none.
    """
    row = _row(ATTEND, QKV, ATTENDED, (heads + 2 * kv_heads) * d, heads * d)
    row[LAYER], row[HEADS], row[KV_HEADS], row[SCALING] = layer, heads, kv_heads, bits_of(scaling)
    row[ROTATED], row[ROPE], row[SOFTCAP] = rotated, rope, bits_of(softcap)
    return row


def gate_row(size: int, activation: int, has_up: bool) -> Table:
    """The activation of GATE_UP, times the second half of it if it `has_up`."""
    row = _row(GATE, GATE_UP, GATED, 2 * size if has_up else size, size)
    row[ACTIVATION], row[HAS_UP] = activation, has_up
    return row


def float_layer(keys: NDArray[np.float32], values: NDArray[np.float32], window: int | None) -> Table:
    """A layer of the KV cache: float32 keys and values, (kv_heads, capacity, d).

    window: positions that a token sees, itself included; None for all.
    """
    layer = np.zeros(LAYER_SIZE, np.int64)
    layer[[CAPACITY, WINDOW, KEYS, VALUES]] = keys.shape[1], window or 0, keys.ctypes.data, values.ctypes.data
    return layer


def code_layer(
    codes: NDArray[np.uint8],
    scale: NDArray[np.float32],
    zero: NDArray[np.float32],
    bits: int,
    width: int,
    window: int | None,
) -> Table:
    """A layer of keys and values as integers of `bits` bits, `width` bits apart.

    codes: (2, kv_heads, capacity, octets).  scale, zero: (2, kv_heads, capacity). Keys come first.
    """
    layer = np.zeros(LAYER_SIZE, np.int64)
    layer[[BITS, WIDTH, CAPACITY, WINDOW]] = bits, width, codes.shape[2], window or 0
    layer[[KEYS, VALUES]] = codes[0].ctypes.data, codes[1].ctypes.data
    layer[[KEY_SCALE, VALUE_SCALE]] = scale[0].ctypes.data, scale[1].ctypes.data
    layer[[KEY_ZERO, VALUE_ZERO]] = zero[0].ctypes.data, zero[1].ctypes.data
    return layer


def bits_of(value: float | np.float32) -> int:
    """The bits of a float32 as an integer."""
    return int(np.float32(value).view(np.int32))


def _row(operation: int, source: int, target: int, source_size: int, target_size: int) -> Table:
    row = np.zeros(ROW_SIZE, np.int64)
    row[: OUTPUT_SIZE + 1] = operation, source, target, source_size, target_size
    return row
