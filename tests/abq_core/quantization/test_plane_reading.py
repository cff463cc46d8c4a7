"""A weight without its lowest planes, value by value, and which precisions can be read so."""

import pytest
import torch

from abq_core.precision import Precision
from abq_core.quantization.plane_reading import fewer_planes, without_lowest_planes
from abq_core.quantization.quantizers import quantize_weight
from abq_core.quantization.weight_grid import WeightGrid


@pytest.mark.parametrize("text", ["W8A8", "W4A8g32", "W3A8"])
@pytest.mark.parametrize("half_zero", [False, True])
def test_joined_codes_have_the_middle_of_their_values(text: str, half_zero: bool) -> None:
    precision = Precision.parse(text)
    weight = torch.randn(6, 70, generator=torch.Generator().manual_seed(3))
    whole = quantize_weight(weight, precision, WeightGrid(half_zero=half_zero))
    assert without_lowest_planes(whole, 0) is whole
    for planes in fewer_planes(precision)[1:]:
        dropped = precision.weight_bits - planes
        read = without_lowest_planes(whole, dropped)
        assert 0 <= int(read.codes.min()) and int(read.codes.max()) < 1 << planes
        first = (whole.codes >> dropped) << dropped
        middle = whole.spacing * (first + ((1 << dropped) - 1) / 2) - whole.per_column(whole.zero)
        assert torch.equal(read.dequantize(), middle * whole.per_column(whole.scale))


@pytest.mark.parametrize(
    ("text", "widths"),
    [("W8A8h8", [8, 7, 6, 5, 4, 3, 2]), ("W3A16", [3, 2]), ("W2A8", []), ("W4*A8", []), ("W16A8", []), ("W1A8", [])],
)
def test_widths(text: str, widths: list[int]) -> None:
    assert list(fewer_planes(Precision.parse(text))) == widths
