"""Blocks of GGUF: gguf-py reads back the values that were written."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from abq_core.export.gguf.blocks import BLOCK_TYPES, exact_type
from abq_core.precision import Precision
from abq_core.quantization.quantizers import quantize_weight
from abq_core.quantization.weight_grid import WeightGrid

GRIDS = {"whole": WeightGrid(), "half": WeightGrid(half_zero=True), "symmetric": WeightGrid(symmetric=True)}


@pytest.mark.parametrize(
    ("precision", "grid", "k", "name"),
    [
        ("W2A8", "whole", 512, "Q2_K"),
        ("W2A8", "half", 512, "Q2_K"),
        ("W2A8g256", "half", 512, "Q2_K"),
        ("W2A8g128", "whole", 512, "Q4_0"),
        ("W2A8", "half", 96, "Q4_0"),
        ("W1A8", "whole", 256, "Q2_K"),
        ("W2*A8", "whole", 256, "Q3_K"),
        ("W3A8", "symmetric", 256, "Q3_K"),
        ("W2*A8", "whole", 96, "Q4_0"),
        ("W3A8", "whole", 256, "Q4_0"),
        ("W4A8", "symmetric", 256, "Q4_0"),
        ("W3A8", "half", 256, "Q5_0"),
        ("W4A8", "whole", 256, "Q5_0"),
        ("W4A16g64", "whole", 192, "Q5_0"),
        ("W4A8g96", "whole", 160, "Q5_0"),
        ("W4A8", "half", 96, "Q8_0"),
        ("W6A6", "half", 96, "Q8_0"),
        ("W8A8", "symmetric", 96, "Q8_0"),
        ("W8A8", "whole", 96, None),
        ("W4A8", "whole", 100, None),
    ],
)
def test_the_smallest_exact_type_holds_the_weight(precision: str, grid: str, k: int, name: str | None) -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, k) + torch.linspace(-0.9, 0.9, 24)[:, None]
    weight[:2] = weight[:2].abs() * torch.tensor([[1.0], [-1.0]])  # zero points at both ends of the levels
    quantized = quantize_weight(weight, Precision.parse(precision), GRIDS[grid])
    found = exact_type(quantized)
    assert (found.name if found else None) == name
    if found is not None:
        blocks = found.encode(quantized)
        assert blocks.shape == (24, k * found.bits / 8)
        values = dequantize(blocks, GGMLQuantizationType[found.name])
        expected = quantized.dequantize().numpy()
        np.testing.assert_allclose(values, expected, rtol=2**-10, atol=2**-24)


def test_types_are_in_the_order_of_their_bits() -> None:
    bits = [one.bits for one in BLOCK_TYPES]
    assert bits == sorted(bits)
