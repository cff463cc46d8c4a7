"""Histograms, level counts, outlier channels and signal-to-noise ratios for figures.

Binning here keeps data small: a figure of a million values needs 256 counts.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from abq_core.quantization.quantizers import QuantizedWeight

BINS = 256


def paired_histogram(values: Mapping[str, Tensor], labels: Mapping[str, object]) -> pd.DataFrame:
    """Histograms of several lenses over the same bins, so that they can be overlaid.

    values: lens -> tensor of any shape.  Columns: the labels, lens, left, right, count (int64).
    """
    flat = {lens: t.detach().float().flatten() for lens, t in values.items()}
    low = min(float(t.min()) for t in flat.values())
    high = max(float(t.max()) for t in flat.values())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    frames = []
    for lens, t in flat.items():
        counts = torch.histc(t, BINS, low, high).numpy().astype(np.int64)
        frames.append(pd.DataFrame({**labels, "lens": lens, "left": edges[:-1], "right": edges[1:], "count": counts}))
    return pd.concat(frames, ignore_index=True)


def level_counts(weight: QuantizedWeight, labels: Mapping[str, object]) -> pd.DataFrame:
    """Count how often each level is used.

    Levels are in steps of the grid from zero: multiples of one half for half-step zero points.

    Columns: the labels, level (float64), count.
    """
    levels, counts = torch.unique(weight.levels(), return_counts=True)
    return pd.DataFrame({**labels, "level": levels.numpy() / weight.spacing, "count": counts.numpy()})


def snr_db(signal: Tensor, approximation: Tensor) -> float:
    """Signal-to-noise ratio in decibels.

    Infinite if both are equal, -infinity for a zero signal with noise.
    """
    noise = float((signal.double() - approximation.double()).pow(2).sum())
    power = float(signal.double().pow(2).sum())
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(power / noise)) if power > 0 else float("-inf")


def channel_peaks(x: Tensor) -> Tensor:
    """Maximum |x| of each channel of x (..., channels): (channels,)."""
    return x.detach().abs().flatten(0, -2).amax(0)


def largest_channels(peaks: Tensor, labels: Mapping[str, object], count: int = 32) -> pd.DataFrame:
    """The `count` channels with the largest peaks. Columns: the labels, channel, value."""
    values, channels = torch.topk(peaks, min(count, len(peaks)))
    return pd.DataFrame({**labels, "channel": channels.numpy(), "value": values.float().numpy()})


def outlier_ratio(peaks: Tensor) -> float:
    """The largest channel peak divided by the median one."""
    return float(peaks.max() / peaks.median().clamp(min=1e-12))
