"""The pass in which all blocks learn together."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.calibration.calibration_text import CalibrationText
from abq_core.calibration.end_to_end import STEP_TOKENS, end_to_end_steps, segments_per_step
from abq_core.events import BlockDone, EpochDone, Event, StepDone
from abq_core.methods import METHODS
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec


@pytest.mark.parametrize(
    ("segments", "seq_len", "steps"),
    [(64, 32, 2), (65, 32, 3), (3, STEP_TOKENS, 3), (3, 2 * STEP_TOKENS, 3), (1, 8, 1)],
)
def test_a_step_reads_as_many_whole_segments_as_fit(segments: int, seq_len: int, steps: int) -> None:
    assert end_to_end_steps(torch.zeros(segments, seq_len, dtype=torch.int64)) == steps
    assert segments_per_step(seq_len) * seq_len <= max(STEP_TOKENS, seq_len)


def run(base: LoadedModel, text: Tensor, *, block_targets: bool, seed: int = 0) -> tuple[MemoryStore, list[Event]]:
    switches = replace(METHODS["abq+"], block_targets=block_targets)
    spec = CalibrationSpec("tiny", Precision.parse("W2A8"), "abq+", switches, epochs=1, seed=seed)
    store, events = MemoryStore(), []
    calibrate(base, spec, store, events.append, CalibrationText(text[:2], text))
    return store, events


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randint(1, 300, (160, 64), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block_targets", [False, True])
def test_the_pass_reports_ten_means_and_lowers_its_loss(base: LoadedModel, text: Tensor, block_targets: bool) -> None:
    store, events = run(base, text, block_targets=block_targets)
    steps = [e.step for e in events if isinstance(e, StepDone) and e.block == 2]
    assert steps == list(range(1, 11))
    means = [e.losses for e in events if isinstance(e, EpochDone) and e.block == 2]
    assert len(means) == 10
    assert all(set(one) == ({"kl", "blocks", "total"} if block_targets else {"kl", "total"}) for one in means)
    assert means[-1]["kl"] < means[0]["kl"]
    assert [e.block for e in events if isinstance(e, BlockDone)] == [0, 1, 0, 1], "drafts first, then finished blocks"
    assert store.blocks.keys() == {0, 1} and not store.drafts


@pytest.mark.parametrize(("precision", "rounding"), [("W4A8", True), ("W4A16", False)])
def test_the_pass_runs_with_rounding_alone_or_with_nothing_to_learn(
    base: LoadedModel, text: Tensor, precision: str, rounding: bool
) -> None:
    switches = replace(METHODS["abq+"], balance="none", clipping=False, act_clipping=not rounding, rounding=rounding)
    spec = CalibrationSpec("tiny", Precision.parse(precision), "abq+", switches, epochs=1)
    store = MemoryStore()
    calibrate(base, spec, store, lambda event: None, CalibrationText(text[:2], text[:16]))
    assert store.blocks.keys() == {0, 1}


def test_the_pass_does_not_change_the_full_precision_model(base: LoadedModel, text: Tensor) -> None:
    before = {name: parameter.clone() for name, parameter in base.model.named_parameters()}
    run(base, text[:16], block_targets=True)
    assert all(torch.equal(parameter, before[name]) for name, parameter in base.model.named_parameters())
    assert all(not parameter.requires_grad or parameter.grad is None for parameter in base.model.parameters())
