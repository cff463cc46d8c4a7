"""The Hadamard transform of rows of float32 (`kernels.hadamard`) in loops that vectors can take."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled

Array = NDArray[Any]
_SIDE = 16  # neighbours whose sums are taken in a transposed block, where they are far apart


@compiled
def transform(x: Array, block: int, factor: np.float32, out: Array, first: int, last: int) -> None:
    """out = H x * factor in every `block` columns of rows first .. last - 1; x, out: (rows, k) float32."""
    side = min(_SIDE, block)
    across = block // side
    turned = np.empty(block, np.float32)
    for row in range(first, last):
        for start in range(0, x.shape[1], block):
            source, target = x[row, start : start + block], out[row, start : start + block]
            for i in range(across):
                for j in range(side):
                    turned[j * across + i] = source[i * side + j]
            _add_pairs(turned, across)
            for i in range(across):
                for j in range(side):
                    target[i * side + j] = turned[j * across + i]
            _add_pairs(target, side)
            for i in range(block):
                target[i] *= factor


@compiled
def _add_pairs(values: Array, distance: int) -> None:
    """Sums and differences of values `distance` apart, then twice as far, until all of them are mixed, in place."""
    while distance < values.size:
        for start in range(0, values.size, 2 * distance):
            firsts, seconds = values[start : start + distance], values[start + distance : start + 2 * distance]
            for i in range(distance):
                first, second = firsts[i], seconds[i]
                firsts[i], seconds[i] = first + second, first - second
        distance *= 2
