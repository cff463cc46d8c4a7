"""Explore: frames of every linear, with values computed directly."""

import pandas as pd
import pytest
import torch

from abq_core.analysis.explore import explore
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.precision import FULL, Precision
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import fake_quant_weight

W2A8 = Precision.parse("W2A8")


@pytest.fixture(scope="module")
def frames(base: LoadedModel) -> dict[str, pd.DataFrame]:
    return explore(base, W2A8)


def test_every_linear_has_its_shape_and_its_signal_to_noise_ratio(
    base: LoadedModel, frames: dict[str, pd.DataFrame]
) -> None:
    linears = {(i, name): m for i, block in enumerate(blocks_of(base.model)) for name, m in linears_of(block).items()}
    rows = frames["linears"].set_index(["block", "tensor"])
    assert set(rows.index) == set(linears)
    for key, linear in linears.items():
        weight = linear.weight.detach().double()
        error = fake_quant_weight(linear.weight.detach(), W2A8).double() - weight
        expected = 10 * torch.log10(weight.pow(2).sum() / error.pow(2).sum())
        assert rows.loc[key, "weight_snr_db"] == pytest.approx(float(expected), rel=1e-4)
        assert (rows.loc[key, "rows"], rows.loc[key, "columns"]) == tuple(weight.shape)


def test_levels_compare_the_plain_and_the_balanced_grid(frames: dict[str, pd.DataFrame]) -> None:
    levels = frames["levels"].query("block == 1 and tensor == 'mlp.up_proj'")
    by_lens = levels.groupby("lens")["level"]
    assert set(by_lens.get_group("balanced")) == {-2, -1, 0, 1, 2}
    assert set(by_lens.get_group("rounded")) <= set(range(-3, 4)), "four levels around each row's zero point"
    assert levels.groupby("lens")["count"].sum().tolist() == [96 * 64] * 2


def test_histograms_and_outliers_cover_the_weights(base: LoadedModel, frames: dict[str, pd.DataFrame]) -> None:
    weight = blocks_of(base.model)[0].mlp.down_proj.weight.detach()
    part = frames["histograms"].query("block == 0 and tensor == 'mlp.down_proj'")
    assert set(part["lens"]) == {"full", "rounded"} and set(part["kind"]) == {"weight"}
    assert part.groupby("lens")["count"].sum().tolist() == [weight.numel()] * 2
    outliers = frames["outliers"].query("block == 0 and tensor == 'mlp.down_proj'")
    peaks = weight.abs().amax(0)
    assert outliers["channel"].iloc[0] == int(peaks.argmax())
    assert outliers["value"].iloc[0] == pytest.approx(float(peaks.max()))


def test_without_weight_quantization_both_lenses_are_equal(base: LoadedModel) -> None:
    frames = explore(base, FULL)
    assert frames["levels"].empty and list(frames["levels"].columns) == ["block", "tensor", "lens", "level", "count"]
    assert (frames["linears"]["weight_snr_db"] == float("inf")).all()
