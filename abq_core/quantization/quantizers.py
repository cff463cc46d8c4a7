"""Quantize weights and activations, to integer codes or differentiably to values.

Weights per output channel or group, activations per token; `weight_grid.py` defines the grids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from abq_core.precision import Precision
from abq_core.quantization.grid import fake_quant_rows, row_range
from abq_core.quantization.weight_grid import NEAREST, WeightGrid, affine_grid, grouped, weight_groups

CLIPPING_FACTORS: tuple[float, ...] = tuple(torch.linspace(0.3, 1.0, 29).tolist())


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers: w ~ (spacing * codes - zero) * scale.

    codes: (rows, k) int16, 0..levels - 1.  scale: (rows, groups) float32.  zero: (rows, groups) int16, 0..spacing *
    (levels - 1).  group_size: columns per group (the last may be shorter); k for one scale per row.
    spacing: 1 if zero points are codes, 2 if they may lie halfway between two codes.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    group_size: int
    spacing: int = 1

    def dequantize(self) -> Tensor:
        """(rows, k) float32."""
        return self.levels().float() * self.per_column(self.scale)

    def levels(self) -> Tensor:
        """spacing * codes - zero, (rows, k) int16: the weight in units of its scale."""
        return self.spacing * self.codes - self.per_column(self.zero)

    def per_column(self, of_groups: Tensor) -> Tensor:
        """Values of the groups, (rows, groups), repeated for each of their columns: (rows, k)."""
        return of_groups.repeat_interleave(self.group_size, dim=1)[:, : self.codes.shape[1]]


def fake_quant_activation(x: Tensor, bits: int, clip: Tensor | float = 1.0) -> Tensor:
    """Quantize and dequantize each token of x (..., channels) float to 2^bits levels.

    clip: a factor in (0, 1] on the minimum and maximum of every token; a tensor () receives gradients.
    """

    def clipped(low: Tensor, high: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        return affine_grid(low * factor, high * factor, bits)

    return fake_quant_rows(x, clipped, (torch.as_tensor(clip, dtype=x.dtype, device=x.device),), None, 2**bits - 1)


def fake_quant_weight(weight: Tensor, precision: Precision, grid: WeightGrid = NEAREST) -> Tensor:
    """Quantize and dequantize a weight (rows, k) float.

    Gradients reach the weight and the grid's learned parts.
    """
    steps = partial(grid.steps, precision)
    groups = grouped(weight, precision)
    value = fake_quant_rows(groups, steps, grid.clips(), grid.offsets(precision), precision.levels - 1)
    return value.flatten(1)[:, : weight.shape[1]]


@torch.no_grad()
def quantize_weight(weight: Tensor, precision: Precision, grid: WeightGrid = NEAREST) -> QuantizedWeight:
    """The integer codes of `fake_quant_weight`; dequantizing them gives its value bit for bit."""
    k = weight.shape[1]
    groups = grouped(weight.float(), precision)
    scale, zero = grid.steps(precision, *row_range(groups), *grid.clips())
    steps, offsets, whole = groups / scale, grid.offsets(precision), zero.floor()
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
def least_error_clipping(
    weight: Tensor, precision: Precision, grid: WeightGrid = NEAREST, factors: Sequence[float] = CLIPPING_FACTORS
) -> Tensor:
    """Search the clipping factor of each group with the least squared rounding error: one of `factors`.

    Returns (rows, groups).

    One factor scales both the minimum and the maximum. At 2 bits it is far below 1: clipping the outermost weights pays
    for a finer grid.
    """
    shape = (weight.shape[0], weight_groups(weight.shape[1], precision))
    best = least = torch.full(shape, torch.inf, device=weight.device)
    for factor in factors:
        clip = torch.full_like(best, factor)
        rounded = fake_quant_weight(weight, precision, replace(grid, clip_low=clip, clip_high=clip))
        error = grouped((rounded - weight) ** 2, precision).sum(-1)
        best = torch.where(error < least, clip, best)
        least = torch.minimum(error, least)
    return best
