"""The block Hadamard transform before a linear layer.

It mixes channels, which spreads outliers.

A block of n channels is multiplied by H / sqrt(n), where H is Sylvester's matrix of +1 and -1, symmetric and its own
inverse. If the weight's columns are transformed as well, the product does not change. Every engine adds in the same
order (pairs 1, 2, 4, ... channels apart) and divides by sqrt(n) last, so results are bit-equal.
"""

from __future__ import annotations

from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kernels.host.threads import run_ranges, thread_count

if TYPE_CHECKING:
    from torch import Tensor

_WORTH_A_THREAD = 1 << 18  # values


def transformed(x: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Multiply every block of channels of x (rows, k) float32, contiguous, by H / sqrt(block).

    Returns a new array.
    """
    out = np.empty_like(x)
    arguments = x, block, inverse_root(block), out
    if x.size < _WORTH_A_THREAD:  # starting threads costs microseconds, which is measurable in a small model
        _compiled().transform(*arguments, 0, len(x))
    else:
        run_ranges(partial(_compiled().transform, *arguments), len(x), 1, thread_count())
    return out


def transformed_tensor(x: Tensor, block: int) -> Tensor:
    """The same for a tensor (..., k) float32 on any device, with torch operations."""
    import torch

    distance, values = 1, x
    while distance < block:
        pairs = values.reshape(*x.shape[:-1], -1, 2, distance)
        first, second = pairs.unbind(-2)
        values = torch.stack([first + second, first - second], dim=-2)
        distance *= 2
    return values.reshape(x.shape) * float(inverse_root(block))


@cache
def inverse_root(block: int) -> np.float32:
    """1 / sqrt(block), the factor of the transform."""
    return np.float32(1) / np.sqrt(np.float32(block))


@cache
def _compiled() -> ModuleType:
    """The compiled functions, imported on first use: importing Numba takes a second."""
    from kernels.cpu import hadamard

    return hadamard
