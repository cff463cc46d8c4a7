"""Error and occupancy of formats against a NumPy computation."""

import numpy as np
import pytest
import torch

from abq_core.analysis import level_sets
from abq_core.analysis.level_sets import level_set_frames
from abq_core.quantization.level_sets import NF4, formats


def test_error_and_occupancy_are_those_of_the_rounded_weight() -> None:
    weight = torch.randn(20, 64, generator=torch.Generator().manual_seed(4))
    frames = level_set_frames(weight, formats(), 32)
    original = weight.numpy().astype(float).reshape(20, 2, 32)
    scale = np.abs(original).max(-1, keepdims=True)
    nearest = np.abs(original[..., None] / scale[..., None] - np.array(NF4)).argmin(-1)
    rounded = np.array(NF4)[nearest] * scale
    expected = 10 * np.log10((original**2).sum() / ((original - rounded) ** 2).sum())
    errors = frames["formats"].set_index(["format", "scale"])
    assert errors.loc[("NF4", "largest"), "snr_db"] == pytest.approx(expected, abs=1e-3)
    assert errors.loc[("NF4", "least error"), "snr_db"] > expected
    used = frames["occupancy"].query("format == 'NF4' and scale == 'largest'")
    levels, counts = np.unique(nearest, return_counts=True)
    assert used["level"].to_numpy() == pytest.approx(np.array(NF4)[levels]) and list(used["count"]) == list(counts)
    by_bits = [errors.loc[(f"uniform W{bits}", "least error"), "snr_db"] for bits in (2, 3, 4)]
    assert by_bits == sorted(by_bits)


def test_a_large_linear_is_sampled_by_evenly_spaced_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_sets, "MOST_WEIGHTS", 32 * 5)
    weight = torch.randn(101, 32, generator=torch.Generator().manual_seed(5))
    sampled = level_set_frames(weight, formats()[:1])["formats"]
    assert set(sampled["rows"]) == {5}
    assert list(sampled["snr_db"]) == list(level_set_frames(weight[::25], formats()[:1])["formats"]["snr_db"])
