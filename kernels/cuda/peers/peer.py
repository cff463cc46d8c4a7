"""Data types of the comparison: a product to time, a peer, a peer that was left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHECKED_TOKENS = 4
ROUNDED = 1e-2  # tolerance relative to the largest value: rounding of 16-bit outputs and weights, with a margin
GROUP = 128  # group size of peers with groups


class PeerError(RuntimeError):
    """A peer does not support a product, or computes it wrong."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product to time: `multiply(weight)` computes x W^T once.

    weights: equal copies in different memory.  kind: kind of operation, as in `kernels.cuda.ceiling`.
    bit_products: number of 1-bit products per pair of weight and activation, if the operations are on bits.
    """

    engine: str
    precision: str
    path: str
    weight_bytes: int
    weights: list[Any]
    multiply: Callable[[Any], Tensor]
    kind: str
    bit_products: int = 1


@dataclass(frozen=True)
class Peer:
    """Another library's product with its expected result.

    expected(tokens): the rows of these tokens in float64, computed from the operands as the library quantized them.
    tolerance: largest allowed difference, relative to the largest value; 0 for integers.
    """

    product: Product
    expected: Callable[[Tensor], Tensor]
    tolerance: float = ROUNDED


@dataclass(frozen=True)
class LeftOut:
    """A peer that was not timed, and why."""

    engine: str
    precision: str  # empty: all precisions of the library
    reason: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}".rstrip() + f" is left out: {self.reason}"


def check(peer: Peer, m: int) -> None:
    """Compare some of the m tokens with the float64 product. Raises PeerError if they differ."""
    y = peer.product.multiply(peer.product.weights[0])
    tokens = checked_tokens(m, y)
    expected = peer.expected(tokens)
    difference, largest = (y[tokens].double() - expected).abs().max(), expected.abs().max()
    if not bool(difference <= peer.tolerance * largest):  # also true for NaN
        raise PeerError(
            f"its product differs from the float64 one by {float(difference):.3g}; "
            f"the largest value is {float(largest):.3g}"
        )


def checked_tokens(m: int, like: Tensor) -> Tensor:
    """Indices of the tokens to compare, on the device of `like`."""
    import torch

    return torch.from_numpy(np.unique(np.linspace(0, m - 1, CHECKED_TOKENS).astype(int))).to(like.device)


def to_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize rows symmetrically to -127 .. 127. Returns (codes int8, scale (rows, 1) float32)."""
    import torch

    full = values.float()
    scale = full.abs().amax(dim=1, keepdim=True).clamp(min=1e-6) / 127
    return (full / scale).round().clamp(-127, 127).to(torch.int8), scale


def to_groups(weight: Tensor, bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize a weight in groups.

    Returns (codes (n, k) uint8, scale, low (n, k / GROUP) of dtype).
    The weight is approximately low + codes * scale. Raises PeerError if k is not a multiple of GROUP.
    """
    import torch

    n, k = weight.shape
    if k % GROUP:
        raise PeerError(f"its groups of {GROUP} columns do not divide k = {k}")
    grouped = weight.float().reshape(n, k // GROUP, GROUP)
    low, high = grouped.amin(-1).to(dtype), grouped.amax(-1)
    scale = ((high - low.float()) / ((1 << bits) - 1)).clamp(min=1e-6).to(dtype)
    codes = ((grouped - low[..., None].float()) / scale[..., None].float()).round().clamp(0, (1 << bits) - 1)
    return codes.to(torch.uint8).reshape(n, k), scale, low


def from_groups(codes: Tensor, scale: Tensor, low: Tensor) -> Tensor:
    """Dequantize the result of `to_groups` to (n, k) float64."""
    n, k = codes.shape
    grouped = codes.double().reshape(n, k // GROUP, GROUP)
    return (low.double()[..., None] + grouped * scale.double()[..., None]).reshape(n, k)
