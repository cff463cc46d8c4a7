"""The transform lens against a NumPy computation with Sylvester's matrix."""

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard as sylvester

from abq_core.analysis import level_sets
from abq_core.analysis.transform import block_sizes, transform_frames, transform_times
from abq_core.precision import Precision


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(12, 96, generator=torch.Generator().manual_seed(6))


@pytest.fixture
def inputs() -> torch.Tensor:
    """Five tokens with one outlier channel."""
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(7))
    x[:, 40] *= 30
    return x


def transformed(x: np.ndarray, block: int) -> np.ndarray:
    matrix = sylvester(block) / np.sqrt(block)
    return (x.astype(float).reshape(len(x), -1, block) @ matrix).reshape(x.shape)


@pytest.mark.parametrize(
    ("channels", "sizes"), [(96, [16, 32]), (512, [16, 32, 64, 128, 256, 512]), (24, [8]), (9, [1])]
)
def test_blocks_are_powers_of_two_that_divide_the_channels(channels: int, sizes: list[int]) -> None:
    assert block_sizes(channels) == sizes


def test_numbers_per_token_and_output_are_those_of_numpy(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    rows = transform_frames(weight, inputs, 32)["rows"].set_index(["kind", "block", "row"]).sort_index()
    assert set(rows.index.unique("block")) == {1, 16, 32}
    for kind, plain in (("activation", inputs.numpy()), ("weight", weight.numpy())):
        for block in (1, 16, 32):
            x = transformed(plain, block)
            low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
            scale = (high - low) / 15
            zero = np.rint(-low / scale)
            codes = np.clip(np.rint(x / scale[:, None]) + zero[:, None], 0, 15)
            noise = ((codes - zero[:, None]) * scale[:, None] - x) ** 2
            found = rows.loc[(kind, block)]
            centred = x - x.mean(1, keepdims=True)
            assert found["kurtosis"].to_numpy() == pytest.approx((centred**4).mean(1) / x.var(1) ** 2, rel=1e-4)
            assert found["range"].to_numpy() == pytest.approx(np.ptp(x, axis=1), rel=1e-4)
            expected = 10 * np.log10((x**2).sum(1) / noise.sum(1))
            assert found["snr_db"].to_numpy() == pytest.approx(expected, abs=0.05)
    medians = rows.groupby(["kind", "block"])["kurtosis"].median()
    assert medians["activation", 1] > 50 > 10 > medians["activation", 32]


def test_channels_and_levels_are_those_before_and_after_one_block(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    frames = transform_frames(weight, inputs, 16)
    channels = frames["channels"].set_index(["kind", "block"])
    for kind, plain in (("activation", inputs.numpy()), ("weight", weight.numpy())):
        for block in (1, 16):
            found = channels.loc[(kind, block)]
            assert list(found["channel"]) == list(range(96))
            assert found["value"].to_numpy() == pytest.approx(np.abs(transformed(plain, block)).max(0), rel=1e-4)
    assert channels.loc[("activation", 1)].set_index("channel")["value"].idxmax() == 40
    x = inputs.numpy().astype(float)
    scale = (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)) / 15
    levels, counts = np.unique(np.rint(x / scale[:, None]), return_counts=True)
    used = frames["levels"].query("kind == 'activation' and block == 1")
    assert dict(zip(used["level"], used["share"], strict=True)) == pytest.approx(
        dict(zip(levels, counts / x.size, strict=True)), abs=3 / x.size
    )
    shares = frames["levels"].groupby(["kind", "block"])["share"].sum()
    assert set(shares.index) == {("activation", 1), ("activation", 16), ("weight", 1), ("weight", 16)}
    assert shares.to_numpy() == pytest.approx(1)


def test_a_large_weight_is_sampled_and_its_rows_keep_their_numbers(
    weight: torch.Tensor, inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(level_sets, "MOST_WEIGHTS", 96 * 3)
    rows = transform_frames(weight, inputs, 16)["rows"].query("kind == 'weight' and block == 1")
    assert list(rows["row"]) == [0, 6, 11]
    assert rows["range"].to_numpy()[-1] == pytest.approx(float(weight[11].max() - weight[11].min()))


def test_the_transform_is_timed_against_the_packed_product() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(8))
    times = transform_times(weight, Precision.parse("W4A4"), (1, 3))
    assert [one.tokens for one in times] == [1, 3]
    for one in times:
        assert list(one.blocks) == [16, 32, 64, 128]
        assert min(one.product, *one.blocks.values()) > 0 and one.threads >= 1
