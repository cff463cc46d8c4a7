"""Fake quantization: integer codes and their dequantized values, differentiable by a straight-through estimator.

Asymmetric, per output channel or group for weights, per token for activations; with a star the symmetric levels of
the paper's Bit Balance Strategy. Ranges always contain zero, so that zero is exact and a zero point is a code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from abq_core.precision import Precision


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers: w ~ (codes - zero) * scale.

    codes: (rows, k) int16, 0..levels-1.  scale: (rows, groups) float32.  zero: (rows, groups) int16, itself a code.
    group_size: columns per group (the last may be shorter); k where there is one scale a row.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    group_size: int

    def dequantize(self) -> Tensor:
        """(rows, k) float32."""
        k = self.codes.shape[1]
        scale = self.scale.repeat_interleave(self.group_size, dim=1)[:, :k]
        zero = self.zero.repeat_interleave(self.group_size, dim=1)[:, :k]
        return (self.codes - zero).float() * scale


def round_through(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes as if it were the identity."""
    return x + (torch.round(x) - x).detach()


def affine_grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """scale and zero point of the asymmetric grid of 2^bits levels over [low, high], low <= 0 <= high.

    scale = (high - low) / n, zero = round(-low / scale), n = 2^bits - 1.  A range of width 0 gets scale 1.
    """
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, round_through(-low / scale)


def fake_quant_activation(x: Tensor, bits: int) -> Tensor:
    """Quantize and dequantize each token (last dimension) of x (..., channels) float to 2^bits levels."""
    scale, zero = affine_grid(x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0), bits)
    codes = torch.clamp(round_through(x / scale) + zero, 0, 2**bits - 1)
    return (codes - zero) * scale


def _grouped(weight: Tensor, precision: Precision) -> Tensor:
    """(rows, k) -> (rows, groups, group_size), padded with zeros, which change no range."""
    rows, k = weight.shape
    size = precision.group_size or k
    if k % size:
        weight = torch.nn.functional.pad(weight, (0, size - k % size))
    return weight.view(rows, -1, size)


def weight_groups(k: int, precision: Precision) -> int:
    """How many scales a row of k weights has."""
    return -(-k // precision.group_size) if precision.group_size else 1


def _weight_grid(
    grouped: Tensor, precision: Precision, clip_low: Tensor | None, clip_high: Tensor | None
) -> tuple[Tensor, Tensor]:
    """scale and zero point, each (rows, groups, 1); the clipping factors (rows, groups) narrow the range."""
    low, high = grouped.amin(-1, keepdim=True).clamp(max=0), grouped.amax(-1, keepdim=True).clamp(min=0)
    if clip_low is not None and clip_high is not None:
        low, high = low * clip_low.unsqueeze(-1), high * clip_high.unsqueeze(-1)
    if precision.balanced:
        half = 2 ** (precision.weight_bits - 1)
        scale = torch.maximum(-low, high) / half
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return scale, torch.full_like(scale, half)
    return affine_grid(low, high, precision.weight_bits)


def fake_quant_weight(
    weight: Tensor, precision: Precision, clip_low: Tensor | None = None, clip_high: Tensor | None = None
) -> Tensor:
    """Quantize and dequantize a weight (rows, k) float; gradients reach the weight and the clipping factors.

    clip_low, clip_high: (rows, groups) factors in 0..1 on the smallest and the largest weight; None for 1.
    """
    grouped = _grouped(weight, precision)
    scale, zero = _weight_grid(grouped, precision, clip_low, clip_high)
    codes = torch.clamp(round_through(grouped / scale) + zero, 0, precision.levels - 1)
    return ((codes - zero) * scale).flatten(1)[:, : weight.shape[1]]


@torch.no_grad()
def quantize_weight(
    weight: Tensor, precision: Precision, clip_low: Tensor | None = None, clip_high: Tensor | None = None
) -> QuantizedWeight:
    """The integers behind `fake_quant_weight`: dequantizing them gives its value bit for bit."""
    k = weight.shape[1]
    grouped = _grouped(weight.float(), precision)
    scale, zero = _weight_grid(grouped, precision, clip_low, clip_high)
    codes = torch.clamp(torch.round(grouped / scale) + zero, 0, precision.levels - 1)
    return QuantizedWeight(
        codes.flatten(1)[:, :k].to(torch.int16).contiguous(),
        scale.squeeze(-1).contiguous(),
        zero.squeeze(-1).to(torch.int16).contiguous(),
        precision.group_size or k,
    )
