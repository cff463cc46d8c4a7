"""A product of another engine, and the check of what it computes against exact integers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHECKED_TOKENS = 4
_CHECKED_ROWS = 1024
_SCALE_BLOCK = 32  # the finest block in which a peer scales activations; coarser ones are multiples of it


@dataclass(frozen=True)
class Peer:
    """One weight (n, k) as another engine holds it, in as many copies as the cold timing rotates over.

    path says what is called.  weight_bytes: of one copy.  integers: the weight's values, which are integers.
    bind(x): one ready product x W^T for x (m, k) float32 on each copy.  to_numpy: a product as (m, n) float64.
    rounded: what the output's type makes of float64 values.  affine: activations are quantized to -128 .. 127 over the
    range of the whole tensor, not to -127 .. 127 by the largest of a block.
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
    """Whether the peer's product of m tokens equals the exact integers, rounded once to the output's type.

    The tokens are integers that the peer's own activation quantization represents without rounding. Some of them are
    compared, in all rows; float64 holds the sums exactly.
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
    """(m, k) integers with the largest in every block, so that every scale is 1; of both signs, so that sums stay small
    enough for engines that add up in float32.
    """
    x = np.random.default_rng(m * 31 + k).integers(-127, 128, (m, k)).astype(np.float32)
    x[:, :: 2 * _SCALE_BLOCK] = 127
    x[:, _SCALE_BLOCK :: 2 * _SCALE_BLOCK] = -127
    if affine:
        x[:, -1] = -128
    return x
