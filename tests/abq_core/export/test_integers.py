"""Levels as other formats count them: equal values, few bits."""

import pytest
import torch

from abq_core.export.integers import bits_of, even_groups, symmetric, with_zero_points
from abq_core.precision import Precision
from abq_core.quantization.quantizers import quantize_weight
from abq_core.quantization.weight_grid import WeightGrid

GRIDS = {"whole": WeightGrid(), "half": WeightGrid(half_zero=True), "symmetric": WeightGrid(symmetric=True)}


@pytest.mark.parametrize(
    ("precision", "grid", "bits"),
    [
        ("W2A8", "whole", 3),
        ("W2A8", "half", 4),
        ("W2A8", "symmetric", 2),
        ("W2*A8", "whole", 3),
        ("W3A8", "half", 5),
        ("W4A8", "whole", 5),
        ("W4A8", "symmetric", 4),
        ("W8A8", "symmetric", 8),
        ("W8A8", "whole", 9),
        ("W4A16g64", "whole", 5),
    ],
)
def test_symmetric_integers_have_the_same_values(precision: str, grid: str, bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 160) + torch.linspace(-0.9, 0.9, 48)[:, None]
    weight = torch.cat([weight, weight[:1].abs(), -weight[:1].abs()])  # zero points at both ends of the levels
    quantized = quantize_weight(weight, Precision.parse(precision), GRIDS[grid])
    found = symmetric(quantized)
    assert torch.equal(found.dequantize(), quantized.dequantize())
    assert found.bits == bits


@pytest.mark.parametrize("precision", ["W8A8", "W7A8", "W3A8g32"])
def test_bytes_with_zero_points_have_the_same_values(precision: str) -> None:
    torch.manual_seed(0)
    quantized = quantize_weight(torch.randn(16, 96), Precision.parse(precision), WeightGrid(half_zero=True))
    found = with_zero_points(quantized)
    assert found is not None and found.zero is not None
    assert -128 <= int(found.values.min()) and int(found.values.max()) <= 127
    assert torch.equal(found.dequantize(), quantized.dequantize())


def test_257_levels_do_not_fit_in_bytes() -> None:
    quantized = quantize_weight(torch.tensor([[-1.0, 1.0, 0.5, 0.1]]), Precision.parse("W8*A8"))
    assert with_zero_points(quantized) is None


def test_groups_that_end_early_are_split() -> None:
    torch.manual_seed(0)
    quantized = quantize_weight(torch.randn(8, 160), Precision.parse("W4A8g96"))
    even = even_groups(quantized)
    assert even.group_size == 32 and even.scale.shape == (8, 5)
    assert torch.equal(even.dequantize(), quantized.dequantize())


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-3, 0, 3), (-8, 7, 4), (-255, 255, 9)]
)
def test_bits_of(low: int, high: int, bits: int) -> None:
    assert bits_of(low, high) == bits
