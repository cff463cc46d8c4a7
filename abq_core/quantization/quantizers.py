"""Fake quantization: integer codes and their dequantized values, differentiable by a straight-through estimator.

Asymmetric, per output channel or group for weights, per token for activations; with a star the symmetric levels of
the paper's Bit Balance Strategy. Ranges always contain zero, so that zero is exact and a zero point is a code.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from abq_core.precision import Precision
from abq_core.quantization.grid import on_own_grid, row_ends


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers: w ~ (spacing * codes - zero) * scale.

    codes: (rows, k) int16, 0..levels-1.  scale: (rows, groups) float32.  zero: (rows, groups) int16, 0 ..
    spacing (levels - 1).  group_size: columns per group (the last may be shorter); k where there is one scale a row.
    spacing: 1, so that zero is itself a code, or 2, so that it may lie halfway between two.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    group_size: int
    spacing: int = 1

    def dequantize(self) -> Tensor:
        """(rows, k) float32."""
        k = self.codes.shape[1]
        scale = self.scale.repeat_interleave(self.group_size, dim=1)[:, :k]
        zero = self.zero.repeat_interleave(self.group_size, dim=1)[:, :k]
        return (self.spacing * self.codes - zero).float() * scale


def round_through(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes as if it were the identity."""
    return x + (torch.round(x) - x).detach()


def affine_grid(low: Tensor, high: Tensor, bits: int, spacing: int = 1) -> tuple[Tensor, Tensor]:
    """scale and zero point of the asymmetric grid of 2^bits levels over [low, high], low <= 0 <= high.

    scale = (high - low) / n, zero = round(spacing * -low / scale) / spacing, n = 2^bits - 1.  A range of width 0 gets
    scale 1.
    """
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, round_through(-low / scale * spacing) / spacing


def fake_quant_activation(x: Tensor, bits: int, clip: Tensor | float = 1.0) -> Tensor:
    """Quantize and dequantize each token (last dimension) of x (..., channels) float to 2^bits levels.

    clip: one factor in (0, 1] on the ends of every token's range; a tensor () gets gradients.
    """

    def clipped(low: Tensor, high: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        return affine_grid(low * factor, high * factor, bits)

    return on_own_grid(x, clipped, (torch.as_tensor(clip, dtype=x.dtype, device=x.device),), None, 2**bits - 1)


def _grouped(weight: Tensor, precision: Precision) -> Tensor:
    """(rows, k) -> (rows, groups, group_size), padded with zeros, which change no range."""
    rows, k = weight.shape
    size = precision.group_size or k
    if k % size:
        weight = torch.nn.functional.pad(weight, (0, size - k % size))
    return weight.view(rows, -1, size)


SCALE_BYTES = 5  # per group: a float32 scale and a one-byte zero point


def weight_groups(k: int, precision: Precision) -> int:
    """How many scales a row of k weights has."""
    return -(-k // precision.group_size) if precision.group_size else 1


@dataclass(frozen=True)
class WeightGrid:
    """How a weight is put on its levels; the default is to round to nearest on the asymmetric grid (or the star's).

    clip_low, clip_high: (rows, groups) factors in 0..1 on the smallest and the largest weight; None for 1.
    offset: (rows, k), added before rounding, in steps of the grid: learned rounding; None for 0.
    symmetric: without a star, the levels -2^(p-1)..2^(p-1) - 1 around a fixed zero point.
    half_zero: without a star, below 8 bits, the zero point may lie halfway between two levels.
    """

    clip_low: Tensor | None = None
    clip_high: Tensor | None = None
    offset: Tensor | None = None
    symmetric: bool = False
    half_zero: bool = False

    def spacing(self, precision: Precision) -> int:
        """Places for a zero point for each level: half a step of 8 bits is nothing, and would cost its byte."""
        fixed = precision.balanced or self.symmetric
        return 2 if self.half_zero and not fixed and precision.weight_bits < 8 else 1

    def clips(self) -> tuple[Tensor, ...]:
        """(rows, groups, 1) each, or none."""
        clips = (self.clip_low, self.clip_high)
        return tuple(clip.unsqueeze(-1) for clip in clips if clip is not None)

    def steps(self, precision: Precision, low: Tensor, high: Tensor, *clips: Tensor) -> tuple[Tensor, Tensor]:
        """scale and zero point for the ends of each group of a weight and their `clips`; all (rows, groups, 1)."""
        if clips:
            low, high = low * clips[0], high * clips[1]
        if not (precision.balanced or self.symmetric):
            return affine_grid(low, high, precision.weight_bits, self.spacing(precision))
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
    steps = partial(grid.steps, precision)
    value = on_own_grid(grouped, steps, grid.clips(), grid.offsets(precision), precision.levels - 1)
    return value.flatten(1)[:, : weight.shape[1]]


@torch.no_grad()
def quantize_weight(weight: Tensor, precision: Precision, grid: WeightGrid = NEAREST) -> QuantizedWeight:
    """The integers behind `fake_quant_weight`: dequantizing them gives its value bit for bit."""
    k = weight.shape[1]
    grouped = _grouped(weight.float(), precision)
    scale, zero = grid.steps(precision, *row_ends(grouped), *grid.clips())
    steps, offsets, whole = grouped / scale, grid.offsets(precision), zero.floor()
    rounded = torch.round((steps if offsets is None else steps + offsets) + (zero - whole))
    codes = torch.clamp(rounded + whole, 0, precision.levels - 1)
    spacing = grid.spacing(precision)
    return QuantizedWeight(
        codes.flatten(1)[:, :k].to(torch.int16).contiguous(),
        scale.squeeze(-1) / spacing,
        (zero * spacing).squeeze(-1).to(torch.int16).contiguous(),
        precision.group_size or k,
        spacing,
    )


@torch.no_grad()
def least_error_clipping(weight: Tensor, precision: Precision, grid: WeightGrid = NEAREST) -> Tensor:
    """(rows, groups) factors in 0.3..1: of those tried, the one for both ends of the range whose rounding has the least
    squared error on that grid. At 2 bits it is far from 1: the outermost weights are given up for a finer grid.
    """
    shape = (weight.shape[0], weight_groups(weight.shape[1], precision))
    best = least = torch.full(shape, torch.inf, device=weight.device)
    for factor in torch.linspace(0.3, 1.0, 29).tolist():
        clip = torch.full_like(best, factor)
        rounded = fake_quant_weight(weight, precision, replace(grid, clip_low=clip, clip_high=clip))
        error = _grouped((rounded - weight) ** 2, precision).sum(-1)
        best = torch.where(error < least, clip, best)
        least = torch.minimum(error, least)
    return best
