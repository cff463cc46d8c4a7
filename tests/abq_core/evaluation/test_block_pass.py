"""The last hidden states block by block: batches, steps, and stopping."""

import pytest
import torch

from abq_core.evaluation import block_pass
from abq_core.evaluation.block_pass import batches_of, last_hidden_states
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel


def test_batches_hold_whole_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_pass, "FORWARD_TOKENS", 20)
    assert list(batches_of(torch.zeros(5, 9))) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(batches_of(torch.zeros(2, 30))) == [slice(0, 1), slice(1, 2)]


def test_every_batch_passes_through_every_block(base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_pass, "FORWARD_TOKENS", 20)
    segments = torch.randint(0, 300, (5, 9))
    done = []
    states = last_hidden_states(base, segments, lambda: done.append(1))
    assert len(done) == len(blocks_of(base.model))
    torch.testing.assert_close(torch.as_tensor(states), base.hidden(segments))

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        last_hidden_states(base, segments, stop)
