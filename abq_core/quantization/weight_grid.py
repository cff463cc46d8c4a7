"""Grids of levels: scale and zero point from a range, and the options of a weight's grid.

Weights are quantized per output channel or group. Grids are asymmetric, or symmetric for the paper's Bit Balance
Strategy (a star in the precision, arXiv 2408.08554). Every range includes zero, so that zero is represented exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from abq_core.precision import Precision

SCALE_BYTES = 5  # stored per group: a float32 scale and a one-byte zero point


def round_through(x: Tensor) -> Tensor:
    """Round half to even, with the identity as gradient (straight-through estimator)."""
    return x + (torch.round(x) - x).detach()


def affine_grid(low: Tensor, high: Tensor, bits: int, spacing: int = 1) -> tuple[Tensor, Tensor]:
    """Scale and zero point of 2^bits levels over [low, high], low <= 0 <= high.

    scale = (high - low) / n, zero = round(spacing * -low / scale) / spacing, n = 2^bits - 1.  An empty range has scale
    1.  spacing: 1 for integer zero points, 2 for multiples of one half.
    """
    scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, round_through(-low / scale * spacing) / spacing


def grouped(weight: Tensor, precision: Precision) -> Tensor:
    """Reshape (rows, k) to (rows, groups, group_size), padded with zeros.

    Every range includes zero, so padding changes none.
    """
    rows, k = weight.shape
    size = precision.group_size or k
    if k % size:
        weight = torch.nn.functional.pad(weight, (0, size - k % size))
    return weight.view(rows, -1, size)


def weight_groups(k: int, precision: Precision) -> int:
    """The number of scales of a row of k weights."""
    return -(-k // precision.group_size) if precision.group_size else 1


@dataclass(frozen=True)
class WeightGrid:
    """Options of a weight's grid.

    The default rounds to nearest on the asymmetric grid, or on the balanced one for a star.

    clip_low, clip_high: (rows, groups) factors in 0..1 on the minimum and maximum; None for 1.
    offset: (rows, k), learned rounding, added before rounding in steps of the grid; None for 0.
    symmetric: without a star, the levels -2^(p-1)..2^(p-1) - 1 around a fixed zero point.
    half_zero: without a star and below 8 bits, the zero point may lie halfway between two levels.
    """

    clip_low: Tensor | None = None
    clip_high: Tensor | None = None
    offset: Tensor | None = None
    symmetric: bool = False
    half_zero: bool = False

    def spacing(self, precision: Precision) -> int:
        """Zero-point positions per level: 2 with half steps, otherwise 1.

        At 8 bits half a step gains nothing, and the zero point would no longer fit in a byte.
        """
        fixed = precision.balanced or self.symmetric
        return 2 if self.half_zero and not fixed and precision.weight_bits < 8 else 1

    def clips(self) -> tuple[Tensor, ...]:
        """The clipping factors as (rows, groups, 1), or an empty tuple."""
        clips = (self.clip_low, self.clip_high)
        return tuple(clip.unsqueeze(-1) for clip in clips if clip is not None)

    def steps(self, precision: Precision, low: Tensor, high: Tensor, *clips: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point from the range of each group and its `clips`; all (rows, groups, 1)."""
        if clips:
            low, high = low * clips[0], high * clips[1]
        if not (precision.balanced or self.symmetric):
            return affine_grid(low, high, precision.weight_bits, self.spacing(precision))
        half = 2 ** (precision.weight_bits - 1)
        scale = torch.maximum(-low, high) / (half if precision.balanced else half - 0.5)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return scale, torch.full_like(scale, half)

    def offsets(self, precision: Precision) -> Tensor | None:
        """The rounding offsets as (rows, groups, group_size), or None."""
        return None if self.offset is None else grouped(self.offset, precision)


NEAREST = WeightGrid()


def linear_bytes(rows: int, k: int, precision: Precision) -> int:
    """Bytes of a weight of (rows, k) as stored.

    Bit planes, scales and zero points; FP16 if it is not quantized.
    """
    if not precision.quantizes_weights:
        return 2 * rows * k
    return rows * k * precision.stored_bits // 8 + rows * weight_groups(k, precision) * SCALE_BYTES
