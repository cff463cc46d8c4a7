"""The last hidden states of many segments, computed block by block."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from abq_core.calibration.block_inputs import block_output
from abq_core.calibration.hidden_states import HiddenStates, empty_states
from abq_core.calibration.model_frame import ModelFrame
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel

FORWARD_TOKENS = 2048  # per forward pass


def ignore_steps() -> None:
    """Do nothing at a step."""


@torch.no_grad()
def last_hidden_states(
    model: LoadedModel, segments: Tensor, on_block: Callable[[], None] = ignore_steps
) -> HiddenStates:
    """The last hidden states, (segments, tokens, hidden), of segments (n, tokens) int64.

    All segments pass through one block before the next one is needed, so only one is in memory in float32. Segments run
    in batches of FORWARD_TOKENS tokens. `on_block` is called after each block, and may raise to stop.
    """
    frame = ModelFrame(model.model)
    batches = list(batches_of(segments))
    arguments = {}  # by the number of segments in a batch: masks may have one entry each
    states: HiddenStates | None = None
    for batch in batches:
        entering, arguments[batch.stop - batch.start] = frame.enter(segments[batch])
        states = empty_states(len(segments), entering) if states is None else states
        states[batch] = entering
    assert states is not None
    for index in range(len(blocks_of(model.model))):
        with model.block(index) as block:
            for batch in batches:
                given = arguments[batch.stop - batch.start][index]
                states[batch] = block_output(block(states[batch].to(model.model.device), **given))
        del block  # before the next one is made
        on_block()
    for batch in batches:
        states[batch] = frame.leave(segments[batch], states[batch].to(model.model.device))
    return states


def batches_of(segments: Tensor) -> Iterator[slice]:
    """Slices of consecutive segments with FORWARD_TOKENS tokens together, or one segment if that is longer."""
    step = max(1, FORWARD_TOKENS // segments.shape[1])
    return (slice(first, min(first + step, len(segments))) for first in range(0, len(segments), step))
