"""A weight without its lowest planes, value by value, and which precisions can be read so."""

import pytest
import torch

from abq_core.precision import Precision
from abq_core.quantization.plane_reading import (
    fake_quant_fewer_planes,
    fewer_planes,
    planes_to_drop,
    without_lowest_planes,
)
from abq_core.quantization.quantizers import fake_quant_weight, quantize_weight
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


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_learning_sees_the_read_weight_and_gets_the_gradients_of_the_whole_one(dropped: int) -> None:
    precision, generator = Precision.parse("W4A8g32"), torch.Generator().manual_seed(4)
    clip = torch.full((6, 3), 0.8)
    leaves = [torch.randn(6, 70, generator=generator), torch.rand(6, 70, generator=generator) - 0.5, clip]
    upstream = torch.randn(6, 70, generator=generator)

    def gradients(read: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        weight, offset, clips = (leaf.clone().requires_grad_() for leaf in leaves)
        grid = WeightGrid(clips, clips, offset, half_zero=True)
        value = (
            fake_quant_fewer_planes(weight, precision, grid, dropped)
            if read
            else fake_quant_weight(weight, precision, grid)
        )
        value.backward(upstream)
        return value.detach(), [part.grad for part in (weight, offset, clips) if part.grad is not None]

    grid = WeightGrid(clip, clip, leaves[1], half_zero=True)
    (value, ours), (_, whole) = gradients(True), gradients(False)
    torch.testing.assert_close(
        value, without_lowest_planes(quantize_weight(leaves[0], precision, grid), dropped).dequantize()
    )
    assert len(ours) == 3 and all(map(torch.equal, ours, whole))


def test_every_other_step_reads_all_planes_and_the_others_each_number_in_turn() -> None:
    w4, w8 = Precision.parse("W4A8"), Precision.parse("W8A8")
    assert [planes_to_drop(w4, step) for step in range(8)] == [0, 1, 0, 2, 0, 1, 0, 2]
    assert {planes_to_drop(w8, step) for step in range(12)} == {0, 1, 2, 3, 4, 5, 6}
    for text in ("W2A8", "W4*A8", "W16A8"):
        assert not any(planes_to_drop(Precision.parse(text), step) for step in range(8))
