"""A product that is timed, another library's product with what it has to be, and what is said of one left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHECKED_TOKENS = 4
ROUNDED = 1e-2  # of a product's largest value: what 16-bit outputs and weights lose, with room
GROUP = 128  # columns that share a scale, where a peer's weights have groups


class PeerError(RuntimeError):
    """A peer cannot take a product, or gets it wrong."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product. `multiply(weight)` computes x W^T once, with any of `weights`, equal ones in different memory.

    kind: of its operations, as `kernels.cuda.ceiling` names them.  bit_products: of one weight and one activation,
    where the operations are on bits.
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
    """Another library's product, and what it has to be. expected(tokens): those rows in float64, of the operands as the
    library quantized them.  tolerance: by how much of the largest value it may differ; 0 for integers.
    """

    product: Product
    expected: Callable[[Tensor], Tensor]
    tolerance: float = ROUNDED


@dataclass(frozen=True)
class LeftOut:
    """A peer that was not timed, and why."""

    engine: str
    precision: str  # empty: all of the library's
    reason: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}".rstrip() + f" is left out: {self.reason}"


def check(peer: Peer, m: int) -> None:
    """Compare some of the m tokens with the float64 product. Raises PeerError where they differ."""
    y = peer.product.multiply(peer.product.weights[0])
    tokens = checked_tokens(m, y)
    expected = peer.expected(tokens)
    difference, largest = (y[tokens].double() - expected).abs().max(), expected.abs().max()
    if not bool(difference <= peer.tolerance * largest):  # also where it is no number
        raise PeerError(
            f"its product differs from the float64 one by {float(difference):.3g}, where the largest value is "
            f"{float(largest):.3g}"
        )


def checked_tokens(m: int, beside: Tensor) -> Tensor:
    """Indices of the tokens that are compared, on the device of a tensor."""
    import torch

    return torch.from_numpy(np.unique(np.linspace(0, m - 1, CHECKED_TOKENS).astype(int))).to(beside.device)


def to_int8(values: Tensor) -> tuple[Tensor, Tensor]:
    """(codes int8, scale (rows, 1) float32): -127 .. 127 over each row's largest value."""
    import torch

    full = values.float()
    scale = full.abs().amax(dim=1, keepdim=True).clamp(min=1e-6) / 127
    return (full / scale).round().clamp(-127, 127).to(torch.int8), scale


def to_groups(weight: Tensor, bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(codes (n, k) uint8, scale, low (n, k / GROUP) of dtype): weight is close to low + codes * scale.

    Raises PeerError where k is no multiple of GROUP.
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
    """(n, k) float64 of `to_groups`."""
    n, k = codes.shape
    grouped = codes.double().reshape(n, k // GROUP, GROUP)
    return (low.double()[..., None] + grouped * scale.double()[..., None]).reshape(n, k)
