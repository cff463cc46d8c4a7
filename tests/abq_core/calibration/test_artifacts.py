"""Block artifacts as tensors and back, and the store in memory."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load
from tiny_runs import calibrated

from abq_core.calibration.artifacts import BlockArtifact, MemoryStore, to_bytes
from abq_core.methods import METHODS, Switches
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision


@pytest.mark.parametrize("precision", ["W3A8g32", "W8*A8", "W1*A4", "W16A4"])
@pytest.mark.parametrize(
    "switches",
    [
        METHODS["rtn"],
        replace(METHODS["abq"], act_clipping=True),
        replace(METHODS["rtn"], hadamard=True, half_zero=True, clip_search=True),
    ],
)
def test_an_artifact_survives_the_trip_through_a_file(base: LoadedModel, precision: str, switches: Switches) -> None:
    stored = calibrated(base, precision, switches=switches).blocks[0]
    artifact = BlockArtifact.from_tensors(load(to_bytes(stored)))
    again = artifact.to_tensors(dict.fromkeys(artifact.weights, Precision.parse(precision)))
    assert again.keys() == stored.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in stored.items())
    assert bool(artifact.weights) == Precision.parse(precision).quantizes_weights


def test_a_stored_block_has_the_size_of_its_bit_planes(base: LoadedModel) -> None:
    stored = calibrated(base, "W2*A8").blocks[0]
    artifact = BlockArtifact.from_tensors(stored)
    for name, weight in artifact.weights.items():
        rows, k = weight.codes.shape
        assert stored[f"weights.{name}.planes"].numel() == rows * 3 * -(-k // 64) * 8  # 3 planes, 64 values per word


def test_a_block_of_the_first_versions_has_no_spacing(base: LoadedModel) -> None:
    stored = dict(calibrated(base, "W4A8").blocks[0])
    for name in [name for name in stored if name.endswith(".columns")]:
        stored[name] = stored[name][:2]
    assert all(weight.spacing == 1 for weight in BlockArtifact.from_tensors(stored).weights.values())


def test_a_memory_store_returns_hashes_and_drops_the_draft_of_a_finished_block() -> None:
    store, tensors = MemoryStore(), {"a": torch.arange(6).reshape(2, 3).T, "b": torch.ones(2, requires_grad=True)}
    assert not store.has(0) and store.load(0) is None and store.load_draft(0) is None
    draft = store.save_draft(0, tensors)
    assert store.load_draft(0) is tensors and not store.has(0)
    assert store.save(0, tensors) == draft == hashlib.sha256(to_bytes(tensors)).hexdigest()
    assert store.has(0) and store.load(0) is tensors and store.load_draft(0) is None
    assert torch.equal(load(to_bytes(tensors))["a"], tensors["a"])
