"""Formats of a weight: the grids of the engine, and any other set of levels, which can only be simulated.

A set of levels has no zero point: value = level * scale, with one scale per group. Sources: FP4 (E2M1) of the OCP
Microscaling specification; NF4 of QLoRA (arXiv 2305.14314); BitMoD (arXiv 2411.11745), whose groups each choose which
value the code of negative zero stands for.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from abq_core.precision import Precision
from abq_core.quantization.quantizers import least_error_clipping, quantize_weight
from abq_core.quantization.weight_grid import SCALE_BYTES, WeightGrid, grouped, weight_groups

SCALE_BITS = 32  # of a set of levels, as the engine stores its scales
CLIPPING = tuple(1.0 - 0.05 * step for step in range(15))  # factors 1.0 .. 0.3 that a search tries
MOST_LEVELS = 256
LARGEST_LEVEL = 1e6
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP3_POSITIVE, _FP4_POSITIVE = (1.0, 2.0, 4.0), (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class LevelSetError(ValueError):
    """A list of levels that cannot be read."""


class Rounded(NamedTuple):
    """A rounded weight, (rows, k) float32.

    values: of the weights.  levels: their levels, in steps of the group's scale.
    """

    values: Tensor
    levels: Tensor


@dataclass(frozen=True)
class Format:
    """A format of a weight.

    name: on the page.  family: of formats that differ in bits.  grid: of the engine, or None for a set of levels.
    alternatives: sets of levels, ascending; each group takes the one with the least squared error.
    """

    name: str
    family: str
    grid: tuple[Precision, WeightGrid] | None = None
    alternatives: tuple[tuple[float, ...], ...] = ()

    @property
    def is_fast(self) -> bool:
        """Whether the engine multiplies with this format."""
        return self.grid is not None

    @property
    def levels(self) -> int:
        """The number of values that a weight of one group can take."""
        return self.grid[0].levels if self.grid else len(self.alternatives[0])

    def stored_bits(self, k: int, group_size: int | None) -> float:
        """Bits per weight of a row of k weights, with scales, zero points and choices."""
        groups = weight_groups(k, _with_groups(group_size))
        if self.grid:
            return self.grid[0].stored_bits + 8 * SCALE_BYTES * groups / k
        choice = math.ceil(math.log2(len(self.alternatives)))
        return math.ceil(math.log2(self.levels)) + (SCALE_BITS + choice) * groups / k

    @torch.no_grad()
    def round(self, weight: Tensor, group_size: int | None = None, search: bool = False) -> Rounded:
        """Round a weight (rows, k) float to nearest.

        search: scale each group by the factor of CLIPPING with the least squared error. Without it the scale is the
        smallest at which no weight lies outside the levels.
        """
        factors = CLIPPING if search else CLIPPING[:1]
        weight = weight.float()
        if self.grid:
            precision, grid = replace(self.grid[0], group_size=group_size), self.grid[1]
            return _round_on_grid(weight, precision, grid, factors)
        return _round_to_levels(weight, self.alternatives, group_size, factors)


def formats(own: Sequence[float] = ()) -> list[Format]:
    """The formats that the page compares. own: levels of the visitor, or empty."""
    made = []
    for bits in (2, 3, 4):
        precision = Precision(bits, 16)
        made.append(Format(f"uniform W{bits}", "uniform", (precision, WeightGrid())))
        made.append(Format(f"half-step W{bits}", "half-step", (precision, WeightGrid(half_zero=True))))
        if bits < 4:
            made.append(Format(f"star W{bits}*", "star", (replace(precision, balanced=True), WeightGrid())))
    made += [
        Format("FP4 E2M1", "FP4", alternatives=(_both_signs(_FP4_POSITIVE),)),
        Format("NF4", "NF4", alternatives=(NF4,)),
        Format("BitMoD 3", "BitMoD", alternatives=_with_one_more(_FP3_POSITIVE, (3.0, 6.0))),
        Format("BitMoD 4", "BitMoD", alternatives=_with_one_more(_FP4_POSITIVE, (5.0, 8.0))),
    ]
    return [*made, Format("own levels", "own", alternatives=(tuple(sorted(own)),))] if own else made


def read_levels(text: str) -> tuple[float, ...]:
    """Read levels such as "-3 -1 0 1 3", separated by spaces, commas or semicolons; () for an empty text.

    Raises LevelSetError unless they are 2 to 256 different finite numbers.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    levels = []
    for word in words:
        try:
            level = float(word)
        except ValueError:
            level = math.nan
        if not abs(level) <= LARGEST_LEVEL:
            raise LevelSetError(f"{word[:40]!r} is not a level: use numbers of at most 1,000,000, such as -3 -1 0 1 3.")
        levels.append(level)
    found = tuple(sorted(set(levels)))
    if words and not 2 <= len(found) <= MOST_LEVELS:
        raise LevelSetError(f"{len(found)} different levels: use 2 to {MOST_LEVELS}, such as -3 -1 0 1 3.")
    return found


def _both_signs(positive: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({0.0, *positive, *(-value for value in positive)}))


def _with_one_more(positive: tuple[float, ...], special: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """The levels of both signs, each time with one of the special values."""
    base = _both_signs(positive)
    return tuple(tuple(sorted((*base, sign * value))) for value in special for sign in (1, -1))


def _with_groups(group_size: int | None) -> Precision:
    return Precision(4, 16, group_size=group_size)


def _round_on_grid(weight: Tensor, precision: Precision, grid: WeightGrid, factors: Sequence[float]) -> Rounded:
    """Round on a grid of the engine, each group clipped by the factor with the least squared error."""
    clip = least_error_clipping(weight, precision, grid, factors)
    quantized = quantize_weight(weight, precision, replace(grid, clip_low=clip, clip_high=clip))
    return Rounded(quantized.dequantize(), quantized.levels() / quantized.spacing)


def _round_to_levels(
    weight: Tensor, alternatives: Sequence[Sequence[float]], group_size: int | None, factors: Sequence[float]
) -> Rounded:
    """Round to the alternative and clipping factor with the least squared error in each group."""
    k = weight.shape[1]
    groups = grouped(weight, _with_groups(group_size))
    best_values, best_levels = torch.zeros_like(groups), torch.zeros_like(groups)
    least = torch.full((*groups.shape[:2], 1), torch.inf)
    for levels in (torch.tensor(alternative) for alternative in alternatives):
        middles = (levels[1:] + levels[:-1]) / 2
        widest = _scale(groups, float(levels[0]), float(levels[-1]))
        for factor in factors:
            scale = widest * factor
            found = levels[torch.bucketize(groups / scale, middles)]
            values = found * scale
            error = ((values - groups) ** 2).sum(-1, keepdim=True)
            better = error < least
            best_values, best_levels = torch.where(better, values, best_values), torch.where(better, found, best_levels)
            least = torch.minimum(error, least)
    return Rounded(best_values.flatten(1)[:, :k], best_levels.flatten(1)[:, :k])


def _scale(groups: Tensor, lowest: float, highest: float) -> Tensor:
    """The smallest scale at which no weight lies outside the levels, on the sides that have levels."""
    none = torch.zeros_like(groups[..., :1])
    above = groups.amax(-1, keepdim=True).clamp(min=0) / highest if highest > 0 else none
    below = groups.amin(-1, keepdim=True).clamp(max=0) / lowest if lowest < 0 else none
    scale = torch.maximum(above, below)
    return torch.where(scale > 0, scale, torch.ones_like(scale))
