"""The levels of a quantized weight as other formats count them: signed integers, or bytes with a zero point."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from abq_core.quantization.quantizers import QuantizedWeight

MOST_BITS = 8


@dataclass(frozen=True)
class IntegerWeight:
    """A weight w = (values - zero) * scale, equal to the `QuantizedWeight` it was made from.

    values: (rows, k) int16.  scale: (rows, groups) float32.  zero: (rows, groups) int16, or None for symmetric levels.
    group_size: columns per group, which divides k; None for one scale per row.
    """

    values: Tensor
    scale: Tensor
    zero: Tensor | None
    group_size: int | None

    @property
    def bits(self) -> int:
        """The fewest bits of a two's complement integer that holds every value, at least 1."""
        return bits_of(int(self.values.min()), int(self.values.max()))

    def dequantize(self) -> Tensor:
        """(rows, k) float32."""
        zero = torch.zeros_like(self.scale) if self.zero is None else self.zero.float()
        columns = self.group_size or self.values.shape[1]
        return (self.values - zero.repeat_interleave(columns, 1)) * self.scale.repeat_interleave(columns, 1)


def bits_of(low: int, high: int) -> int:
    """The fewest bits of a two's complement integer that holds low..high."""
    return max(int(low < 0), *(value.bit_length() + 1 for value in (high, ~low) if value > 0), 1)


def symmetric(weight: QuantizedWeight) -> IntegerWeight:
    """The weight without zero points: values are differences from the zero point, in its steps.

    p bits become p + 1, with half-step zero points p + 2, with a star or symmetric levels as few as they need.
    """
    weight = even_groups(weight)
    return IntegerWeight(weight.levels(), weight.scale, None, _group_size(weight))


def with_zero_points(weight: QuantizedWeight) -> IntegerWeight | None:
    """The weight as signed bytes with zero points, -128..127; None if its levels do not fit."""
    weight = even_groups(weight)
    values = weight.spacing * weight.codes - 128
    if int(values.max()) > 127:
        return None
    return IntegerWeight(values, weight.scale, weight.zero - 128, _group_size(weight))


def even_groups(weight: QuantizedWeight) -> QuantizedWeight:
    """The same weight with groups that divide the row: a shorter last group splits all into smaller ones."""
    k = weight.codes.shape[1]
    if k % weight.group_size == 0:
        return weight
    size = math.gcd(k, weight.group_size)
    repeats = weight.group_size // size
    scale, zero = (part.repeat_interleave(repeats, dim=1)[:, : k // size] for part in (weight.scale, weight.zero))
    return QuantizedWeight(weight.codes, scale.contiguous(), zero.contiguous(), size, weight.spacing)


def _group_size(weight: QuantizedWeight) -> int | None:
    return None if weight.scale.shape[1] == 1 else weight.group_size
