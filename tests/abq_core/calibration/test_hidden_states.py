"""Hidden states in a file: the interface of a tensor, and calibrations that do not depend on where they are."""

import contextlib
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from abq_core.calibration import hidden_states
from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.calibration.hidden_states import HiddenFile, empty_states
from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.runtime import quantized_model, streamed_model
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec


def test_a_file_is_read_and_written_like_a_tensor() -> None:
    expected = torch.randn(5, 3, 4)
    states = HiddenFile(5, 3, 4)
    states[:] = expected
    assert len(states) == 5 and states.shape == expected.shape
    assert torch.equal(states[1], expected[1]) and torch.equal(states[-1], expected[-1])
    assert torch.equal(states[1:4], expected[1:4]) and states[2:2].shape == (0, 3, 4)
    states[2] = torch.zeros(3, 4)
    states[3:] = torch.ones(2, 3, 4)
    assert states[2].sum() == 0 and states[3:].sum() == 24
    assert torch.equal(torch.stack(list(states))[:2], expected[:2])
    for outside in (5, -6):
        with pytest.raises(IndexError, match=str(outside)):
            states[outside]


def test_a_file_without_its_end_is_named() -> None:
    states = HiddenFile(3, 2, 2)
    states[0] = torch.zeros(2, 2)
    with pytest.raises(OSError, match="ends before segment 2"):
        states[2]


def test_a_file_has_no_name_and_is_where_tmpdir_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(hidden_states.tempfile, "tempdir", None)
    states = HiddenFile(1, 2, 2)
    states[0] = torch.zeros(2, 2)
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of listdir itself
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    assert any(path.startswith(str(tmp_path)) for path in opened) and not list(tmp_path.iterdir())
    monkeypatch.setattr(hidden_states.tempfile, "tempdir", None)


def test_only_large_states_are_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.zeros(1, 3, 4)
    monkeypatch.setattr(hidden_states, "IN_MEMORY_BYTES", 5 * 3 * 4 * 4)
    assert isinstance(empty_states(5, one), Tensor) and isinstance(empty_states(6, one), HiddenFile)
    assert isinstance(empty_states(6, one.to("meta")), Tensor), "an accelerator's states stay there"


@pytest.mark.parametrize("method", ["rtn", "abq"])
def test_calibration_and_evaluation_do_not_depend_on_where_states_are(
    method: str, base: LoadedModel, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = {} if method == "rtn" else {"epochs": 1}
    spec = CalibrationSpec(base.ref, Precision.parse("W3A8"), method, segments=3, seq_len=16, **epochs)

    def result() -> tuple[MemoryStore, float]:
        store = MemoryStore()
        calibrate(base, spec, store)
        return store, evaluate(streamed_model(base, spec.precision, store), base, ids).kl_mean

    store, kl = result()
    monkeypatch.setattr(hidden_states, "IN_MEMORY_BYTES", 0)
    in_file, kl_in_file = result()
    for index in range(2):
        first, second = store.load(index), in_file.load(index)
        assert first is not None and second is not None and first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert kl == kl_in_file == evaluate(quantized_model(base, spec.precision, store, "simulated"), base, ids).kl_mean
