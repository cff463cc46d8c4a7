"""Formats of a weight against a NumPy search over the same levels and scales."""

import numpy as np
import pytest
import torch

from abq_core.precision import Precision
from abq_core.quantization.level_sets import CLIPPING, NF4, LevelSetError, formats, read_levels
from abq_core.quantization.quantizers import fake_quant_weight
from abq_core.quantization.weight_grid import WeightGrid

FP3 = [-4, -2, -1, 0, 1, 2, 4]
FP4 = [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]
SETS = {
    "FP4 E2M1": [FP4],
    "NF4": [list(NF4)],
    "BitMoD 3": [sorted([*FP3, special]) for special in (3, -3, 6, -6)],
    "BitMoD 4": [sorted([*FP4, special]) for special in (5, -5, 8, -8)],
    "own levels": [[-3.0, -1.0, 0.0, 0.5, 2.0]],
}
KNOWN = {one.name: one for one in formats((-3.0, -1.0, 0.0, 0.5, 2.0))}


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(12, 80, generator=torch.Generator().manual_seed(3)) ** 3 * 0.05


def nearest(weight: np.ndarray, alternatives: list[list[float]], size: int, factors: tuple[float, ...]) -> np.ndarray:
    """Round each group to the alternative and factor with the least squared error."""
    rounded = np.zeros_like(weight)
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], size):
            group, least = weight[row, start : start + size], np.inf
            for levels in map(np.array, alternatives):
                widest = max(group.max() / levels.max(), group.min() / levels.min())
                for factor in factors:
                    steps = group / (widest * factor)
                    values = levels[np.abs(steps[:, None] - levels).argmin(1)] * widest * factor
                    if ((values - group) ** 2).sum() < least:
                        least, rounded[row, start : start + size] = ((values - group) ** 2).sum(), values
    return rounded


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("name", SETS)
def test_a_set_of_levels_has_the_least_error_of_its_alternatives_and_scales(
    weight: torch.Tensor, name: str, group_size: int | None, search: bool
) -> None:
    rounded = KNOWN[name].round(weight, group_size, search)
    expected = nearest(weight.numpy().astype(float), SETS[name], group_size or 80, CLIPPING if search else (1.0,))
    assert np.abs(rounded.values.numpy() - expected).max() < 1e-5
    assert set(rounded.levels.flatten().tolist()) <= {float(np.float32(v)) for levels in SETS[name] for v in levels}


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize(
    ("name", "precision", "grid"),
    [
        ("uniform W3", "W3A16", WeightGrid()),
        ("half-step W2", "W2A16", WeightGrid(half_zero=True)),
        ("star W2*", "W2*A16", WeightGrid()),
    ],
)
def test_a_format_of_the_engine_is_rounded_as_a_run_rounds_it(
    weight: torch.Tensor, name: str, precision: str, grid: WeightGrid, group_size: int | None
) -> None:
    at = Precision.parse(precision + (f"g{group_size}" if group_size else ""))
    plain, searched = (KNOWN[name].round(weight, group_size, search) for search in (False, True))
    assert torch.equal(plain.values, fake_quant_weight(weight, at, grid))
    assert (searched.values - weight).pow(2).sum() < (plain.values - weight).pow(2).sum()
    assert len(set(plain.levels[0, :32].tolist())) <= at.levels


def test_stored_bits_count_scales_zero_points_and_choices() -> None:
    assert KNOWN["uniform W4"].stored_bits(256, 128) == 4 + 40 / 128
    assert KNOWN["star W2*"].stored_bits(256, None) == 3 + 40 / 256
    assert KNOWN["NF4"].stored_bits(256, 64) == 4 + 32 / 64
    assert KNOWN["BitMoD 3"].stored_bits(256, 128) == 3 + 34 / 128
    assert KNOWN["own levels"].stored_bits(256, 128) == 3 + 32 / 128
    fast = {name for name, one in KNOWN.items() if one.is_fast}
    assert fast == {f"{family} W{bits}" for family in ("uniform", "half-step") for bits in (2, 3, 4)} | {
        "star W2*",
        "star W3*",
    }


def test_a_weight_of_zeros_stays_zero() -> None:
    for one in KNOWN.values():
        assert not one.round(torch.zeros(2, 40), 32, search=True).values.any(), one.name


def test_levels_are_read_in_any_order_with_any_separator() -> None:
    assert read_levels(" 3, -1;0\n1 3 1e0") == (-1.0, 0.0, 1.0, 3.0)
    assert read_levels("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 two 3", "'two' is not a level"),
        ("0 nan", "'nan' is not a level"),
        ("0 1e999", "'1e999' is not a level"),
        ("5", "1 different levels: use 2 to 256"),
        (" ".join(map(str, range(300))), "300 different levels"),
    ],
)
def test_what_is_no_list_of_levels_is_named(text: str, message: str) -> None:
    with pytest.raises(LevelSetError, match=message):
        read_levels(text)
