"""Blocks that run one by one between `enter` and `leave` compute what the model computes, for every family."""

from pathlib import Path

import pytest
import torch
from family_cases import CONFIGS, family_folder

from abq_core.calibration.block_inputs import block_output
from abq_core.calibration.model_frame import ModelFrame
from abq_core.evaluation.block_pass import last_hidden_states
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import load_model

IDS = torch.arange(20, 60).view(4, -1)


@pytest.mark.parametrize("case", CONFIGS)
def test_the_frame_and_the_blocks_are_the_model(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    loaded = load_model(str(family_folder(case, tmp_path, tiny_llama)))
    frame = ModelFrame(loaded.model)
    with torch.no_grad():
        hidden, arguments = frame.enter(IDS)
        for block, given in zip(blocks_of(loaded.model), arguments, strict=True):
            assert given["use_cache"] is False and given["past_key_values"] is None
            hidden = block_output(block(hidden, **given))
        expected = loaded.hidden(IDS)
        assert torch.equal(frame.leave(IDS, hidden), expected)
        assert torch.equal(torch.as_tensor(last_hidden_states(loaded, IDS)), expected)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks_of(loaded.model))
    assert torch.equal(loaded.hidden(IDS), expected), "the model is as before"
