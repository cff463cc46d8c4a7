"""The Hadamard transform in front of a linear: channels are mixed in blocks, so that none of them is an outlier.

A block of n channels is multiplied by H / sqrt(n), with H Sylvester's matrix of +1 and -1: symmetric, and its own
inverse. A weight whose columns went through it too gives the same product. Additions come in one order everywhere,
pairs 1, 2, 4, .. channels apart, and sqrt(n) last: so every engine has the same bits.
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
    """Every `block` channels of x (rows, k) float32, contiguous, times H / sqrt(block), as a new array."""
    out = np.empty_like(x)
    settings = x, block, shrinking(block), out
    if x.size < _WORTH_A_THREAD:  # a token on its way through a small model feels a microsecond
        _compiled().transform(*settings, 0, len(x))
    else:
        run_ranges(partial(_compiled().transform, *settings), len(x), 1, thread_count())
    return out


def transformed_tensor(x: Tensor, block: int) -> Tensor:
    """The same for a tensor (..., k) float32 on any device, by torch's operations."""
    import torch

    distance, found = 1, x
    while distance < block:
        pairs = found.reshape(*x.shape[:-1], -1, 2, distance)
        first, second = pairs.unbind(-2)
        found = torch.stack([first + second, first - second], dim=-2)
        distance *= 2
    return found.reshape(x.shape) * float(shrinking(block))


@cache
def shrinking(block: int) -> np.float32:
    """1 / sqrt(block), by which sums are multiplied."""
    return np.float32(1) / np.sqrt(np.float32(block))


@cache
def _compiled() -> ModuleType:
    """Numba is imported at the first use."""
    from kernels.cpu import hadamard

    return hadamard
