"""Fake quantization: integer codes and their dequantized values, differentiable by a straight-through estimator.

Asymmetric, per output channel or group for weights, per token for activations; with a star the symmetric levels of
the paper's Bit Balance Strategy. Ranges always contain zero, so that zero is exact and a zero point is a code.
"""

from dataclasses import dataclass
from typing import Any

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


class _OnGrid(torch.autograd.Function):
    """clamp(round(x / scale + offset) + zero, 0, top) and back, in few passes over memory.

    x, offset: (..., n); scale, zero: (..., 1), zero a whole number. Rounding passes gradients as the identity; beyond
    the grid's ends x and offset get none. Written out by hand because calibration spends most of its time here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, offset: Tensor | None, top: int) -> Tensor:
        steps = x / scale
        if offset is not None:
            steps += offset
        steps.round_().add_(zero)
        inside = (steps >= 0).logical_and_(steps <= top)
        value = steps.clamp_(0, top).sub_(zero).mul_(scale)
        ctx.save_for_backward(x, scale, value, inside)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, scale, value, inside = ctx.saved_tensors
        within = gradient * inside
        for_scale = for_zero = for_offset = None
        if ctx.needs_input_grad[1]:
            for_scale = ((gradient * value).sum(-1, keepdim=True) - (within * x).sum(-1, keepdim=True)) / scale
        if ctx.needs_input_grad[2]:
            for_zero = (within.sum(-1, keepdim=True) - gradient.sum(-1, keepdim=True)) * scale
        if ctx.needs_input_grad[3]:
            for_offset = within * scale
        return within, for_scale, for_zero, for_offset, None


def affine_grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """scale and zero point of the asymmetric grid of 2^bits levels over [low, high], low <= 0 <= high.

    scale = (high - low) / n, zero = round(-low / scale), n = 2^bits - 1.  A range of width 0 gets scale 1.
    """
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, round_through(-low / scale)


def fake_quant_activation(x: Tensor, bits: int, clip: Tensor | float = 1.0) -> Tensor:
    """Quantize and dequantize each token (last dimension) of x (..., channels) float to 2^bits levels.

    clip: one factor in (0, 1] on the ends of every token's range; a tensor () gets gradients.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale, zero = affine_grid(low * clip, high * clip, bits)
    value: Tensor = _OnGrid.apply(x, scale, zero, None, 2**bits - 1)
    return value


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


@dataclass(frozen=True)
class WeightGrid:
    """How a weight is put on its levels; the default is to round to nearest on the asymmetric grid (or the star's).

    clip_low, clip_high: (rows, groups) factors in 0..1 on the smallest and the largest weight; None for 1.
    offset: (rows, k) in -0.5..0.5, added before rounding, in steps of the grid: learned rounding; None for 0.
    symmetric: without a star, the levels -2^(p-1)..2^(p-1) - 1 around a fixed zero point.
    """

    clip_low: Tensor | None = None
    clip_high: Tensor | None = None
    offset: Tensor | None = None
    symmetric: bool = False

    def steps(self, grouped: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
        """scale and zero point, each (rows, groups, 1), of a weight (rows, groups, group_size)."""
        low, high = grouped.amin(-1, keepdim=True).clamp(max=0), grouped.amax(-1, keepdim=True).clamp(min=0)
        if self.clip_low is not None and self.clip_high is not None:
            low, high = low * self.clip_low.unsqueeze(-1), high * self.clip_high.unsqueeze(-1)
        if not (precision.balanced or self.symmetric):
            return affine_grid(low, high, precision.weight_bits)
        half = 2 ** (precision.weight_bits - 1)
        scale = torch.maximum(-low, high) / (half if precision.balanced else half - 0.5)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return scale, torch.full_like(scale, half)

    def offsets(self, precision: Precision) -> Tensor | None:
        """(rows, groups, group_size), or None where there are none."""
        return None if self.offset is None else _grouped(self.offset, precision)


NEAREST = WeightGrid()


def fake_quant_weight(weight: Tensor, precision: Precision, grid: WeightGrid = NEAREST) -> Tensor:
    """Quantize and dequantize a weight (rows, k) float; gradients reach the weight and what the grid learns."""
    grouped = _grouped(weight, precision)
    scale, zero = grid.steps(grouped, precision)
    value: Tensor = _OnGrid.apply(grouped, scale, zero, grid.offsets(precision), precision.levels - 1)
    return value.flatten(1)[:, : weight.shape[1]]


@torch.no_grad()
def quantize_weight(weight: Tensor, precision: Precision, grid: WeightGrid = NEAREST) -> QuantizedWeight:
    """The integers behind `fake_quant_weight`: dequantizing them gives its value bit for bit."""
    k = weight.shape[1]
    grouped = _grouped(weight.float(), precision)
    scale, zero = grid.steps(grouped, precision)
    steps, offsets = grouped / scale, grid.offsets(precision)
    rounded = torch.round(steps if offsets is None else steps + offsets)
    codes = torch.clamp(rounded + zero, 0, precision.levels - 1)
    return QuantizedWeight(
        codes.flatten(1)[:, :k].to(torch.int16).contiguous(),
        scale.squeeze(-1).contiguous(),
        zero.squeeze(-1).to(torch.int16).contiguous(),
        precision.group_size or k,
    )


@torch.no_grad()
def least_error_clipping(weight: Tensor, precision: Precision, symmetric: bool = False) -> Tensor:
    """(rows, groups) factors in 0.3..1: of those tried, the one for both ends of the range whose rounding has the least
    squared error. At 2 bits it is far from 1: the outermost weights are given up for a finer grid.
    """
    shape = (weight.shape[0], weight_groups(weight.shape[1], precision))
    best = least = torch.full(shape, torch.inf, device=weight.device)
    for factor in torch.linspace(0.3, 1.0, 29).tolist():
        clip = torch.full_like(best, factor)
        rounded = fake_quant_weight(weight, precision, WeightGrid(clip, clip, symmetric=symmetric))
        error = _grouped((rounded - weight) ** 2, precision).sum(-1)
        best = torch.where(error < least, clip, best)
        least = torch.minimum(error, least)
    return best
