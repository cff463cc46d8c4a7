"""A product of another engine, and the check of its result against exact integers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHECKED_TOKENS = 4
_CHECKED_ROWS = 1024
_SCALE_BLOCK = 32  # smallest block in which a peer scales activations; larger ones are multiples of it


@dataclass(frozen=True)
class Peer:
    """One weight (n, k) in another engine's format, with its copies for cold timings.

    path: the function that is called.  weight_bytes: of one copy.  integers: the weight's values, which are integers.
    bind(x): for each copy, a callable that computes x W^T for x (m, k) float32.  to_numpy: converts a product to (m, n)
    float64.  rounded: rounds float64 values to the output's type.  affine: activations are quantized to -128 .. 127
    over the range of the whole tensor, not to -127 .. 127 by the maximum of a block.
    """

    engine: str
    precision: str
    path: str
    weight_bytes: int
    integers: NDArray[np.int8]
    bind: Callable[[NDArray[np.float32]], list[Callable[[], Any]]]
    to_numpy: Callable[[Any], NDArray[np.float64]]
    rounded: Callable[[NDArray[np.float64]], NDArray[np.float64]] = lambda values: values.astype(np.float32).astype(
        np.float64
    )
    affine: bool = False


def is_exact(peer: Peer, m: int) -> bool:
    """Whether the peer's product equals the exact integers, rounded to the output's type.

    The tokens are integers that the peer's activation quantization represents without rounding. A sample of them is
    compared in all rows; float64 represents the sums exactly.
    """
    n, k = peer.integers.shape
    x = _integer_tokens(m, k, peer.affine)
    tokens = np.unique(np.linspace(0, m - 1, _CHECKED_TOKENS).astype(int))
    y = peer.to_numpy(peer.bind(x)[0]())[tokens]
    checked = x[tokens].astype(np.float64)
    for start in range(0, n, _CHECKED_ROWS):
        rows = slice(start, start + _CHECKED_ROWS)
        expected = peer.rounded(checked @ peer.integers[rows].T.astype(np.float64))
        if not np.array_equal(y[:, rows], expected):
            return False
    return True


def _integer_tokens(m: int, k: int, affine: bool) -> NDArray[np.float32]:
    """Random integers (m, k) with the maximum in every block, so that every scale is 1.

    Both signs alternate, so that sums stay small enough for engines that accumulate in float32.
    """
    x = np.random.default_rng(m * 31 + k).integers(-127, 128, (m, k)).astype(np.float32)
    x[:, :: 2 * _SCALE_BLOCK] = 127
    x[:, _SCALE_BLOCK :: 2 * _SCALE_BLOCK] = -127
    if affine:
        x[:, -1] = -128
    return x
