"""Quantization against its definition, computed value by value."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abq_core.precision import Precision
from abq_core.quantization.quantizers import (
    fake_quant_activation,
    fake_quant_weight,
    least_error_clipping,
    quantize_weight,
)
from abq_core.quantization.weight_grid import WeightGrid, round_through, weight_groups

HALF = WeightGrid(half_zero=True)


def by_hand(row: list[float], precision: Precision) -> list[float]:
    """Scale, zero point, code and value of one row without groups, in Python floats."""
    low, high = min(0.0, *row), max(0.0, *row)
    if precision.balanced:
        half = 2 ** (precision.weight_bits - 1)
        scale = max(-low, high) / half or 1.0
        return [max(-half, min(half, round(x / scale))) * scale for x in row]
    n = 2**precision.weight_bits - 1
    scale = (high - low) / n or 1.0
    zero = round(-low / scale)
    return [(max(0, min(n, round(x / scale) + zero)) - zero) * scale for x in row]


@pytest.mark.parametrize("text", ["W1A8", "W2A8", "W3A8", "W4A8", "W8A8", "W1*A8", "W2*A8", "W4*A8", "W8*A8"])
def test_weights_are_rounded_by_the_definition(text: str) -> None:
    precision = Precision.parse(text)
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([by_hand(row, precision) for row in weight.double().tolist()])
    torch.testing.assert_close(fake_quant_weight(weight, precision), expected, atol=1e-5, rtol=1e-5)


@given(
    bits=st.integers(1, 8),
    balanced=st.booleans(),
    levels=st.sampled_from(["", "symmetric", "half_zero"]),
    group=st.sampled_from([None, 32, 64]),
    k=st.integers(1, 70),
    seed=st.integers(0, 999),
    shift=st.floats(-3, 3),
)
@settings(max_examples=60, deadline=None)
def test_codes_dequantize_to_the_fake_quantized_weight(
    bits: int, balanced: bool, levels: str, group: int | None, k: int, seed: int, shift: float
) -> None:
    precision = Precision(bits, 8, balanced, group)
    weight = torch.randn(3, k, generator=torch.Generator().manual_seed(seed)) + shift
    clip = torch.full((3, weight_groups(k, precision)), 0.9)
    offset = torch.rand(3, k, generator=torch.Generator().manual_seed(seed)) - 0.5
    grid = WeightGrid(clip, clip, offset, levels == "symmetric", levels == "half_zero")
    quantized = quantize_weight(weight, precision, grid)
    assert torch.equal(quantized.dequantize(), fake_quant_weight(weight, precision, grid))
    assert 0 <= quantized.codes.min() and quantized.codes.max() < precision.levels
    assert 0 <= quantized.zero.min() and quantized.zero.max() <= quantized.spacing * (precision.levels - 1)
    assert quantized.spacing == (2 if levels == "half_zero" and not balanced and bits < 8 else 1)
    assert quantized.zero.max() < 256, "zero points fit in a byte"


def test_w2_star_uses_five_symmetric_levels() -> None:
    weight = torch.linspace(-1, 1, 101).view(1, -1)
    levels = fake_quant_weight(weight, Precision.parse("W2*A8")).unique()
    assert levels.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_half_steps_place_four_levels_symmetrically_around_zero() -> None:
    weight = torch.linspace(-3, 3, 101).view(1, -1)
    assert fake_quant_weight(weight, Precision.parse("W2A8"), HALF).unique().tolist() == [-3, -1, 1, 3]
    assert fake_quant_weight(weight, Precision.parse("W1A8"), HALF).unique().tolist() == [-3, 3]
    quantized = quantize_weight(weight, Precision.parse("W2A8"), HALF)
    assert (quantized.scale.item(), quantized.zero.item(), quantized.spacing) == (1, 3, 2)
    whole = fake_quant_weight(weight, Precision.parse("W2A8"))
    assert whole.unique().tolist() == [-4, -2, 0, 2]


def test_half_steps_lower_the_error_of_normal_weights_at_two_bits_by_a_seventh() -> None:
    weight, precision = torch.randn(64, 256, generator=torch.Generator().manual_seed(8)), Precision(2, 8)
    errors = []
    for grid in (HALF, WeightGrid()):
        clip = least_error_clipping(weight, precision, grid)
        rounded = fake_quant_weight(weight, precision, replace(grid, clip_low=clip, clip_high=clip))
        errors.append(float((rounded - weight).pow(2).mean()))
    assert errors[0] < 0.87 * errors[1]


def test_zero_stays_zero_and_a_constant_is_finite() -> None:
    for text in ("W2A8", "W2*A8"):
        values = fake_quant_weight(torch.tensor([[0.0, 0.0], [5.0, 0.0], [-2.0, -2.0]]), Precision.parse(text))
        assert torch.isfinite(values).all()
        assert values[0].tolist() == [0.0, 0.0] and values[1, 1] == 0.0


def test_activations_are_rounded_per_token_within_half_a_step() -> None:
    x = torch.randn(2, 7, 33, generator=torch.Generator().manual_seed(2)) * torch.tensor([1.0, 100.0]).view(2, 1, 1)
    for bits in (2, 4, 8):
        step = (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)) / (2**bits - 1)
        assert ((fake_quant_activation(x, bits) - x).abs() <= step * 1.001).all()
        assert all(len(row.unique()) <= 2**bits for row in fake_quant_activation(x, bits).flatten(0, 1))


def test_gradients_pass_through_rounding_and_reach_the_clipping() -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    logits = torch.full((4, 1), 2.0, requires_grad=True)
    offset = torch.zeros(4, 64, requires_grad=True)
    grid = WeightGrid(torch.sigmoid(logits), torch.sigmoid(logits), offset)
    loss = (fake_quant_weight(weight, Precision.parse("W2A8"), grid) ** 2).sum()
    loss.backward()
    assert weight.grad is not None and logits.grad is not None and offset.grad is not None
    assert weight.grad.abs().sum() > 0 and logits.grad.abs().min() > 0 and offset.grad.abs().sum() > 0


@pytest.mark.parametrize("text", ["W2A8", "W2*A8", "W3A8g32"])
def test_an_offset_moves_a_weight_by_at_most_one_level(text: str) -> None:
    precision = Precision.parse(text)
    weight = torch.randn(3, 70, generator=torch.Generator().manual_seed(4))
    nearest = quantize_weight(weight, precision)
    for step in (-0.5, 0.5):
        moved = quantize_weight(weight, precision, WeightGrid(offset=torch.full_like(weight, step * 0.999)))
        difference = (moved.codes - nearest.codes) * int(2 * step)
        assert set(difference.unique().tolist()) == {0, 1}
        assert torch.equal(moved.scale, nearest.scale) and torch.equal(moved.zero, nearest.zero)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_symmetric_grid_has_a_fixed_zero_point_and_reaches_both_ends(bits: int) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(6)) + 0.3
    quantized = quantize_weight(weight, Precision(bits, 8), WeightGrid(symmetric=True))
    assert quantized.zero.unique().tolist() == [2 ** (bits - 1)]
    torch.testing.assert_close(quantized.scale[:, 0], weight.abs().amax(1) / (2 ** (bits - 1) - 0.5))
    error = (quantized.dequantize() - weight).abs()
    assert (error <= quantized.scale * 0.5001).all()  # clipping adds no error beyond rounding


def test_more_bits_mean_less_error() -> None:
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(4))
    errors = [float((fake_quant_weight(weight, Precision(b, 8)) - weight).pow(2).mean()) for b in range(1, 9)]
    assert errors == sorted(errors, reverse=True)
    assert math.log2(errors[3] / errors[7]) == pytest.approx(8, abs=1.0)  # 6 dB per bit


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_manual_gradients_equal_those_of_the_definition(bits: int) -> None:
    """Compare with autograd through the formula, with straight-through rounding."""
    generator = torch.Generator().manual_seed(bits)
    leaves = [torch.randn(3, 40, generator=generator, requires_grad=True) for _ in range(2)]
    clips = [torch.full((3, 1), 0.7, requires_grad=True) for _ in range(2)]
    weight, offset = leaves
    aim = torch.randn(3, 40, generator=generator)

    def by_definition() -> torch.Tensor:
        low, high = weight.amin(-1, keepdim=True) * clips[0], weight.amax(-1, keepdim=True) * clips[1]
        scale = (high - low) / (2**bits - 1)
        zero = round_through(-low / scale)
        codes = torch.clamp(round_through(weight / scale + offset * 0.4) + zero, 0, 2**bits - 1)
        return (codes - zero) * scale

    grid = WeightGrid(*clips, offset * 0.4)
    inputs = (*leaves, *clips)
    values = by_definition(), fake_quant_weight(weight, Precision(bits, 8), grid)
    expected, actual = (torch.autograd.grad(((value - aim) ** 2).sum(), inputs) for value in values)
    for name, one, other in zip(("weight", "offset", "low", "high"), expected, actual, strict=True):
        assert one.abs().sum() > 0, name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("text", ["W2A8", "W2*A8", "W3A8g32"])
def test_searched_clipping_has_the_least_error_of_all_candidates(text: str) -> None:
    precision = Precision.parse(text)
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(9)) ** 3
    found = least_error_clipping(weight, precision)

    def row_errors(clip: torch.Tensor) -> torch.Tensor:
        rounded = fake_quant_weight(weight, precision, WeightGrid(clip, clip))
        return ((rounded - weight) ** 2).view(4, found.shape[1], -1).sum(-1)

    assert (found < 1).any()
    for factor in (0.3, 0.5, 0.75, 1.0):
        assert (row_errors(found) <= row_errors(torch.full_like(found, factor)) + 1e-5).all()
