"""Inputs and outputs of blocks against a forward pass of the whole model."""

import pytest
import torch
from torch import Tensor

from abq_core.calibration.block_inputs import (
    block_output,
    block_outputs,
    capture_block_inputs,
    input_peaks,
    linear_inputs,
    run_block,
    to_device,
)
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.quantization.quant_linear import linears_of


def test_blocks_run_one_by_one_reach_the_hidden_states_of_the_model(base: LoadedModel, ids: Tensor) -> None:
    inputs = capture_block_inputs(base.model, ids)
    states = base.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    hidden = inputs.hidden
    assert torch.equal(hidden, states[0]) and len(inputs.arguments) == len(blocks_of(base.model))
    for block, arguments, expected in zip(blocks_of(base.model), inputs.arguments, states[1:-1], strict=False):
        hidden = run_block(block, hidden, arguments)
        torch.testing.assert_close(hidden, expected)
    assert not any(block._forward_pre_hooks for block in blocks_of(base.model)), "hooks are removed"


def test_captured_arguments_have_no_cache_and_a_second_call_gives_the_same(base: LoadedModel, ids: Tensor) -> None:
    inputs = capture_block_inputs(base.model, ids)
    assert all(one["past_key_values"] is None and one["use_cache"] is False for one in inputs.arguments)
    block = blocks_of(base.model)[0]
    first, second = (run_block(block, inputs.hidden, inputs.arguments[0]) for _ in range(2))
    assert torch.equal(first, second)


def test_results_of_blocks_are_collected_in_order_while_the_context_is_open(base: LoadedModel, ids: Tensor) -> None:
    blocks = blocks_of(base.model)
    with block_outputs(blocks) as outputs:
        base.model(ids)
    assert len(outputs) == len(blocks)
    inputs = capture_block_inputs(base.model, ids)
    torch.testing.assert_close(block_output(outputs[0]), run_block(blocks[0], inputs.hidden, inputs.arguments[0]))
    base.model(ids)
    assert len(outputs) == len(blocks)


def test_peaks_are_the_largest_magnitudes_over_all_calls(base: LoadedModel, ids: Tensor) -> None:
    block, inputs, rows = blocks_of(base.model)[0], capture_block_inputs(base.model, ids), {}

    def take(name: str, value: Tensor) -> None:
        rows.setdefault(name, []).append(value)

    with input_peaks(block) as peaks, linear_inputs(block, take):
        run_block(block, inputs.hidden, inputs.arguments[0])
    assert peaks.keys() == rows.keys() == linears_of(block).keys()
    for name, linear in linears_of(block).items():
        assert peaks[name].shape == (linear.in_features,)
        assert torch.equal(peaks[name], torch.cat(rows[name]).abs().amax(0))


def test_tensors_in_tuples_are_moved_too() -> None:
    moved = to_device({"mask": torch.zeros(1), "positions": (torch.zeros(1), None), "flag": True}, torch.device("meta"))
    assert moved["mask"].is_meta and moved["positions"][0].is_meta
    assert moved["positions"][1] is None and moved["flag"] is True


def test_a_block_that_returns_a_tuple_has_its_hidden_states_first() -> None:
    hidden = torch.zeros(1)
    assert block_output((hidden, None)) is hidden and block_output(hidden) is hidden


def test_hooks_are_removed_if_the_model_fails(base: LoadedModel) -> None:
    with pytest.raises(IndexError):
        capture_block_inputs(base.model, torch.full((1, 4), 10**6))
    assert not any(block._forward_pre_hooks for block in blocks_of(base.model))
