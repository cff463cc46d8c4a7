"""Quantized keys and values, stored and multiplied as integers per token and head.

A byte holds 8 / width codes. The channels are split into 8 / width consecutive parts; part j is at bit j * width.
"""

from functools import partial

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.quantize import row_grid
from kernels.cpu.token.operations import cap, softmax


@compiled
def write(x: Array, bits: int, width: int, start: int, codes: Array, scale: Array, zero: Array) -> bool:
    """Quantize x per token and head, and write it to the positions from `start`.

    x: (kv_heads, tokens, d) float32.

    codes: (kv_heads, capacity, d * width / 8) uint8.  scale, zero: (kv_heads, capacity) float32.
    Returns False at a token without a finite scale (NaN, infinity, or a range that overflows float32).
    """
    heads, tokens, d = x.shape
    levels, part = np.float32((1 << bits) - 1), codes.shape[2]
    for h in range(heads):
        for t in range(tokens):
            step, offset, finite = row_grid(x[h, t], np.float32(1), levels)
            if not finite:
                return False
            scale[h, start + t], zero[h, start + t] = step, offset
            codes[h, start + t] = 0
            for i in range(d):
                code = min(max(np.rint(x[h, t, i] / step) + offset, np.float32(0)), levels)
                codes[h, start + t, i % part] |= np.uint8(np.uint8(code) << np.uint8(i // part * width))
    return True


@partial(compiled, reorder_sums=True)
def attend(
    query: Array,
    keys: tuple[Array, Array, Array],
    values: tuple[Array, Array, Array],
    width: int,
    positions: tuple[int, int],
    scale: np.float32,
    softcap: np.float32,
    out: Array,
) -> None:
    """Attention (`operations.attend`) on quantized keys and values.

    Keys and values: each (codes, scale, zero).
    """
    key_codes, key_scale, key_zero = keys
    value_codes, value_scale, value_zero = values
    heads, d = query.shape
    first, last = positions
    group, part = heads // key_codes.shape[0], key_codes.shape[2]
    mask = np.uint8((1 << width) - 1)
    scores = np.empty(last - first, np.float32)
    for head in range(heads):
        kv = head // group
        query_sum = np.float32(0)
        for i in range(d):
            query_sum += query[head, i]
        for t in range(first, last):
            total = -key_zero[kv, t] * query_sum
            for j in range(d // part):
                shift = np.uint8(j * width)
                for i in range(part):
                    total += query[head, j * part + i] * np.float32((key_codes[kv, t, i] >> shift) & mask)
            scores[t - first] = total * key_scale[kv, t] * scale
        cap(scores, softcap)
        softmax(scores)
        zeros = np.float32(0)
        for i in range(d):
            out[head, i] = 0
        for t in range(first, last):
            weight = scores[t - first] * value_scale[kv, t]
            zeros += weight * value_zero[kv, t]
            for j in range(d // part):
                shift = np.uint8(j * width)
                for i in range(part):
                    out[head, j * part + i] += weight * np.float32((value_codes[kv, t, i] >> shift) & mask)
        for i in range(d):
            out[head, i] -= zeros
