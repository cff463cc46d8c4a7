"""The optimization of one block: loss terms, schedule, steps, errors."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from abq_core.calibration.block_inputs import run_block
from abq_core.calibration.block_learning import (
    CalibrationError,
    Targets,
    add_losses,
    decay,
    learn_block,
    take_step,
    wrapped_copy,
)
from abq_core.calibration.block_quantizer import CLIPPING_RATE
from abq_core.events import EpochDone, Event, StepDone
from abq_core.methods import METHODS, Switches
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec

OFF = replace(METHODS["abq"], dlc=False, akl=False, mse="full")


def learn(
    first_block: Any, switches: Switches, epochs: int, *, seed: int = 0, batch: int = 1
) -> tuple[list[Event], dict[str, Any]]:
    """Learn the first block; returns the events and the learned values."""
    spec = CalibrationSpec("tiny", Precision.parse("W2A8"), switches=switches, epochs=epochs, batch=batch, seed=seed)
    quantizer, events = first_block.quantizer("W2A8", switches), []
    full = run_block(first_block.module, first_block.hidden, first_block.arguments)
    targets = Targets(first_block.hidden, first_block.hidden, full, full)
    learn_block(first_block.module, 0, quantizer, targets, first_block.arguments, spec, events.append)
    return events, quantizer.state()


@pytest.mark.parametrize(
    ("switches", "terms"),
    [
        (METHODS["abq"], {"dlc", "akl", "mse"}),
        (replace(METHODS["abq"], akl_per_head=True, mse="none"), {"dlc", "akl"}),
        (OFF, {"mse"}),
    ],
)
def test_losses_are_the_terms_that_are_on_and_their_sum(first_block: Any, switches: Switches, terms: set[str]) -> None:
    events, _ = learn(first_block, switches, epochs=2)
    steps, epochs = ([e for e in events if isinstance(e, kind)] for kind in (StepDone, EpochDone))
    assert [(e.step, e.steps) for e in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [e.epoch for e in epochs] == [1, 2]
    for event in epochs:
        assert set(event.losses) == terms | {"total"}
        assert event.losses["total"] == pytest.approx(sum(event.losses[name] for name in terms), rel=1e-5)


def test_the_error_on_the_quantized_input_counts_twice_if_the_inputs_are_equal(first_block: Any) -> None:
    (full, *_), (both, *_) = (
        [e.losses["mse"] for e in learn(first_block, replace(OFF, mse=term), epochs=1)[0] if isinstance(e, EpochDone)]
        for term in ("full", "both")
    )
    assert both == pytest.approx(2 * full, rel=0.05)


def test_learning_lowers_the_loss_and_depends_on_the_seed_alone(first_block: Any) -> None:
    events, state = learn(first_block, METHODS["abq"], epochs=8)
    totals = [e.losses["total"] for e in events if isinstance(e, EpochDone)]
    assert totals[-1] < totals[0]
    again, other = learn(first_block, METHODS["abq"], epochs=8)[1], learn(first_block, METHODS["abq"], 8, seed=1)[1]
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in state.items())


@pytest.mark.parametrize(("switches", "epochs"), [(METHODS["rtn"], 1), (METHODS["abq"], 0)])
def test_nothing_is_learned_without_values_or_epochs(first_block: Any, switches: Switches, epochs: int) -> None:
    assert learn(first_block, switches, epochs)[0] == []


def test_the_working_copy_shares_the_parameters_of_the_block(first_block: Any) -> None:
    quantizer = first_block.quantizer("W2A8")
    working = wrapped_copy(first_block.module, Precision.parse("W2A8"), quantizer)
    originals = {name: parameter.data_ptr() for name, parameter in first_block.module.named_parameters()}
    assert {name: parameter.data_ptr() for name, parameter in working.named_parameters()} == originals


def test_rates_decrease_linearly_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = decay(optimizer, 4), []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25]) and optimizer.param_groups[0]["lr"] == 0


def test_a_step_frees_its_gradients_and_refuses_a_loss_that_is_not_finite() -> None:
    value = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([value], lr=0.5)
    take_step(optimizer, value.sum(), "block 3", "epoch 2")
    assert value.item() == 0.5 and value.grad is None
    with pytest.raises(CalibrationError, match=r"The loss of block 3 is inf in epoch 2\."):
        take_step(optimizer, (value / 0).sum(), "block 3", "epoch 2")
    assert value.item() == 0.5


def test_sums_of_losses_grow_by_term() -> None:
    sums: dict[str, float] = {}
    for value in (1.0, 2.0):
        add_losses(sums, {"dlc": torch.tensor(value), "total": torch.tensor(value)})
    assert sums == {"dlc": 3.0, "total": 3.0}


@pytest.mark.parametrize("batch", [2, 3, 4, 100])
def test_a_step_reads_a_batch_of_segments(first_block: Any, batch: int) -> None:
    count = len(first_block.hidden)
    events, _ = learn(first_block, METHODS["abq"], 2, batch=batch)
    steps = [event.step for event in events if isinstance(event, StepDone)]
    assert steps == list(range(1, 2 * -(-count // batch) + 1))


def test_the_first_loss_of_a_batch_is_the_mean_over_its_segments(first_block: Any) -> None:
    """MSE is a plain mean, and nothing has moved before the first step."""
    switches = replace(METHODS["omniquant"], balance="none")
    first_losses = [first_loss(first_block, switches, segment) for segment in range(len(first_block.hidden))]
    events, _ = learn(first_block, switches, 1, batch=len(first_block.hidden))
    (whole,) = [event.losses["mse"] for event in events if isinstance(event, EpochDone)]
    assert whole == pytest.approx(sum(first_losses) / len(first_losses), rel=1e-5)


def first_loss(first_block: Any, switches: Switches, segment: int) -> float:
    """The loss of a step on one segment before anything is learned."""
    hidden = first_block.hidden[segment : segment + 1]
    full = run_block(first_block.module, hidden, first_block.arguments)
    quantizer, events = first_block.quantizer("W2A8", switches), []
    spec = CalibrationSpec("tiny", Precision.parse("W2A8"), switches=switches, epochs=1, batch=1)
    targets = Targets(hidden, hidden, full, full)
    learn_block(first_block.module, 0, quantizer, targets, first_block.arguments, spec, events.append)
    return next(event.losses["mse"] for event in events if isinstance(event, EpochDone))


@pytest.mark.parametrize("batch", [1, 2])
def test_learning_rates_grow_with_the_square_root_of_the_batch(first_block: Any, batch: int) -> None:
    """The first step of Adam moves a value by its learning rate, or a little less if its gradient is tiny."""
    switches = replace(METHODS["omniquant"], balance="none")
    start = first_block.quantizer("W2A8", switches).state()["clip_high.mlp.down_proj"]
    hidden = first_block.hidden[:batch]
    full = run_block(first_block.module, hidden, first_block.arguments)
    quantizer = first_block.quantizer("W2A8", switches)
    spec = CalibrationSpec("tiny", Precision.parse("W2A8"), switches=switches, epochs=1, segments=batch, batch=batch)
    targets = Targets(hidden, hidden, full, full)
    learn_block(first_block.module, 0, quantizer, targets, first_block.arguments, spec, lambda event: None)
    moved = (quantizer.state()["clip_high.mlp.down_proj"] - start).abs()
    assert moved.max().item() == pytest.approx(CLIPPING_RATE * batch**0.5, rel=0.1)
