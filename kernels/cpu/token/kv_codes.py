"""Quantized keys and values, stored and multiplied as integers per token and head.

A byte holds 8 / width codes. The channels are split into 8 / width consecutive parts; part j is at bit j * width.
"""

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.quantize import row_grid


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


@compiled
def read(stored: tuple[Array, Array, Array], kv: int, start: int, out: Array) -> None:
    """Dequantize the positions from `start` of one head to out (tokens, d) float32."""
    codes, scale, zero = stored
    part = codes.shape[2]
    parts = out.shape[1] // part
    width = 8 // parts
    mask = np.uint8((1 << width) - 1)
    for t in range(out.shape[0]):
        octets, step, offset = codes[kv, start + t], scale[kv, start + t], zero[kv, start + t]
        for j in range(parts):
            shift, row = np.uint8(j * width), out[t, j * part : (j + 1) * part]
            for i in range(part):
                row[i] = (np.float32((octets[i] >> shift) & mask) - offset) * step
