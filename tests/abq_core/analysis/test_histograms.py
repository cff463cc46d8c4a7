"""Histograms, level counts, outlier channels and SNR against direct computations."""

import math

import numpy as np
import pytest
import torch

from abq_core.analysis.histograms import (
    BINS,
    channel_peaks,
    largest_channels,
    level_counts,
    outlier_ratio,
    paired_histogram,
    snr_db,
)
from abq_core.precision import Precision
from abq_core.quantization.quantizers import quantize_weight
from abq_core.quantization.weight_grid import WeightGrid


def test_lenses_share_their_bins_and_every_value_is_counted() -> None:
    values = {"full": torch.randn(30, 40), "rounded": torch.randn(30, 40) * 2}
    frame = paired_histogram(values, {"block": 3, "tensor": "q"})
    assert list(frame.columns) == ["block", "tensor", "lens", "left", "right", "count"]
    by_lens = {lens: part for lens, part in frame.groupby("lens")}
    assert np.array_equal(by_lens["full"]["left"], by_lens["rounded"]["left"])
    for lens, tensor in values.items():
        part = by_lens[lens]
        assert len(part) == BINS and part["count"].sum() == 1200
        edges = np.append(part["left"].to_numpy(), part["right"].to_numpy()[-1])
        expected, _ = np.histogram(tensor.flatten().double().numpy(), edges)
        assert np.abs(part["count"].to_numpy() - expected).sum() <= 4, "float32 and float64 differ at edges only"


def test_a_constant_has_a_bin_around_it() -> None:
    frame = paired_histogram({"full": torch.full((5,), 2.0)}, {})
    assert (frame["left"].min(), frame["right"].max(), frame["count"].sum()) == (1.5, 2.5, 5)


@pytest.mark.parametrize("grid", [WeightGrid(), WeightGrid(half_zero=True)])
@pytest.mark.parametrize("text", ["W2A8", "W3A8g32", "W2*A8"])
def test_levels_are_the_dequantized_values_in_steps(text: str, grid: WeightGrid) -> None:
    weight = quantize_weight(torch.randn(6, 70), Precision.parse(text), grid)
    frame = level_counts(weight, {"block": 0})
    assert frame["count"].sum() == 6 * 70
    steps = weight.scale.repeat_interleave(weight.group_size, 1)[:, :70] * weight.spacing
    levels, counts = torch.unique((weight.dequantize() / steps * 2).round() / 2, return_counts=True)
    assert frame["level"].tolist() == levels.tolist() and frame["count"].tolist() == counts.tolist()
    halves = bool((frame["level"] % 1).any())
    assert halves == (weight.spacing == 2)


def test_the_signal_to_noise_ratio_is_in_decibels() -> None:
    signal = torch.tensor([3.0, 4.0])
    assert snr_db(signal, signal + torch.tensor([0.0, 0.5])) == pytest.approx(20)
    assert snr_db(signal, signal) == math.inf
    assert snr_db(torch.zeros(2), signal) == -math.inf


def test_peaks_and_the_largest_channels() -> None:
    x = torch.zeros(2, 3, 5)
    x[0, 1, 2], x[1, 2, 2], x[1, 0, 4] = 3, -7, 5
    peaks = channel_peaks(x)
    assert peaks.tolist() == [0, 0, 7, 0, 5]
    frame = largest_channels(peaks, {"block": 1}, count=2)
    assert frame.to_dict("list") == {"block": [1, 1], "channel": [2, 4], "value": [7, 5]}
    assert len(largest_channels(peaks, {})) == 5


def test_the_outlier_ratio_compares_the_largest_with_the_median_channel() -> None:
    assert outlier_ratio(torch.tensor([1.0, 2.0, 8.0])) == 4
    assert math.isfinite(outlier_ratio(torch.zeros(3)))
