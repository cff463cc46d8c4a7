"""Diagnostics of a calibration.

The frames, their coordinates, and values that follow from the method.
"""

import dataclasses

import pandas as pd
import pytest
from tiny_runs import calibrated
from torch import Tensor

from abq_core.analysis.block_frames import ATTENTION_TOKENS
from abq_core.analysis.diagnostics import diagnose
from abq_core.calibration.artifacts import MemoryStore
from abq_core.events import Event, Message
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import linears_of
from abq_core.spec import METHODS

W4A4 = Precision.parse("W4A4")
TRANSFORMED = dataclasses.replace(METHODS["rtn"], hadamard=True)
HALF_STEPS = dataclasses.replace(METHODS["rtn"], clip_search=True, half_zero=True)


@pytest.fixture(scope="module")
def store(base: LoadedModel) -> MemoryStore:
    return calibrated(base, "W4A4", method="abq", switches=METHODS["abq"])


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def frames(base: LoadedModel, store: MemoryStore, ids: Tensor, events: list[Event]) -> dict[str, pd.DataFrame]:
    return diagnose(base, W4A4, store, ids, events.append)


def test_every_frame_has_its_columns(frames: dict[str, pd.DataFrame]) -> None:
    assert {name: list(frame.columns) for name, frame in frames.items()} == {
        "histograms": ["block", "tensor", "kind", "lens", "left", "right", "count"],
        "levels": ["block", "tensor", "lens", "level", "count"],
        "blocks": ["block", "lens", "cosine", "mse", "snr_db", "kl_attention"],
        "linears": ["block", "tensor", "lens", "weight_snr_db", "activation_snr_db", "outlier_ratio"],
        "outliers": ["block", "tensor", "channel", "value"],
        "balance": ["block", "pair", "channel", "value"],
        "clipping": ["block", "tensor", "row", "low", "high"],
        "attention": ["block", "head", "query", "key", "full", "rounded", "corrected"],
        "attention_tokens": ["position", "text"],
    }


def test_every_linear_of_every_block_is_compared(base: LoadedModel, frames: dict[str, pd.DataFrame]) -> None:
    linears = {(i, name) for i, block in enumerate(blocks_of(base.model)) for name in linears_of(block)}
    for name in ("linears", "levels", "outliers", "clipping"):
        assert set(zip(frames[name]["block"], frames[name]["tensor"], strict=True)) == linears, name
    kinds = frames["histograms"].groupby("kind")["lens"].unique()
    assert all(list(lenses) == ["full", "rounded", "corrected"] for lenses in kinds)
    assert set(kinds.index) == {"weight", "activation", "output"}
    assert (frames["balance"]["value"] > 0).all()


def test_attention_probabilities_of_a_query_sum_to_one(
    base: LoadedModel, frames: dict[str, pd.DataFrame], ids: Tensor
) -> None:
    attention = frames["attention"]
    assert (attention["key"] <= attention["query"]).all()
    sums = attention.groupby(["block", "head", "query"])[["full", "rounded", "corrected"]].sum()
    assert ((sums - 1).abs() < 1e-5).all().all()
    tokens = frames["attention_tokens"]
    assert len(tokens) == min(ids.shape[1], ATTENTION_TOKENS)
    assert tokens["text"].tolist() == [base.tokenizer.decode([token]) for token in ids[0, : len(tokens)].tolist()]


def test_a_message_reports_every_block(frames: dict[str, pd.DataFrame], events: list[Event]) -> None:
    assert frames
    assert events == [Message(f"Measured the distributions of block {index}.") for index in (0, 1)]


def test_rounding_alone_equals_an_rtn_run_and_has_no_learned_values(base: LoadedModel, ids: Tensor) -> None:
    frames = diagnose(base, W4A4, calibrated(base, "W4A4"), ids)
    by_lens = {lens: part.drop(columns="lens") for lens, part in frames["blocks"].groupby("lens")}
    pd.testing.assert_frame_equal(
        by_lens["rounded"].reset_index(drop=True), by_lens["corrected"].reset_index(drop=True)
    )
    for name in ("balance", "clipping"):
        assert frames[name].empty and len(frames[name].columns) > 3


def test_weights_are_compared_after_the_transform(base: LoadedModel, ids: Tensor) -> None:
    frames = diagnose(base, Precision.parse("W8A8"), calibrated(base, "W8A8", switches=TRANSFORMED), ids)
    corrected = frames["linears"].query("lens == 'corrected'")
    assert (corrected["weight_snr_db"] > 35).all() and (corrected["activation_snr_db"] > 30).all()


def test_levels_count_half_steps(base: LoadedModel, ids: Tensor) -> None:
    levels = diagnose(base, Precision.parse("W2A8"), calibrated(base, "W2A8", switches=HALF_STEPS), ids)["levels"]
    assert set(levels.query("lens == 'corrected'")["level"] * 2 % 2) == {0, 1}
    assert set(levels.query("lens == 'rounded'")["level"] % 1) == {0}


def test_tokens_in_front_of_the_text_are_shown_but_not_counted(
    base: LoadedModel, store: MemoryStore, ids: Tensor, frames: dict[str, pd.DataFrame]
) -> None:
    without = diagnose(base, W4A4, store, ids, prefix=2)
    assert without["attention"].equals(frames["attention"])
    assert without["attention_tokens"].equals(frames["attention_tokens"])
    counts = [
        found["histograms"].query("kind == 'output' and block == 0 and lens == 'full'")["count"].sum()
        for found in (frames, without)
    ]
    assert counts[1] == counts[0] * (ids.shape[1] - 2) // ids.shape[1]
    inputs = [
        found["histograms"].query("kind == 'activation' and block == 0 and lens == 'full'")["count"].sum()
        for found in (frames, without)
    ]
    assert inputs[1] == inputs[0] * (ids.shape[1] - 2) // ids.shape[1]
    assert (without["blocks"]["cosine"] != frames["blocks"]["cosine"]).all()
    assert (without["blocks"]["kl_attention"] != frames["blocks"]["kl_attention"]).all()
