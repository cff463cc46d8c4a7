"""Rows of 16-bit floats times one token."""

from functools import partial

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled


@partial(compiled, reorder_sums=True)
def bfloat16_rows(weight: Array, x: Array, first: int, last: int, out: Array) -> None:
    """out[r] = sum of weight[r] x in float32 for rows first .. last - 1.

    weight: (n, k) uint16, the bits of bfloat16.  x: (k,) float32.  out: (n,) float32.
    """
    for r in range(first, last):
        row, total = weight[r], np.float32(0)
        for i in range(x.size):
            total += x[i] * np.uint32(np.uint32(row[i]) << np.uint32(16)).view(np.float32)
        out[r] = total


@partial(compiled, reorder_sums=True)
def float16_rows(weight: Array, x: Array, first: int, last: int, out: Array) -> None:
    """out[r] = sum of weight[r] x in float32 for rows first .. last - 1.

    weight: (n, k) uint16, the bits of finite float16 values.  x: (k,) float32.  out: (n,) float32.
    """
    bias = np.uint32(112 << 23)  # between the exponents of the two formats
    smallest = np.uint32(113 << 23)  # 2 ** -14 in float32: below it, float16 values have no leading one
    for r in range(first, last):
        row, total = weight[r], np.float32(0)
        for i in range(x.size):
            bits = np.uint32(row[i])
            magnitude = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
            normal = np.uint32(magnitude + bias).view(np.float32)
            subnormal = np.uint32(magnitude + smallest).view(np.float32) - smallest.view(np.float32)
            value = subnormal if magnitude < np.uint32(1 << 23) else normal
            total += x[i] * (-value if bits > np.uint32(0x7FFF) else value)
        out[r] = total
