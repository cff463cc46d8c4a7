"""Zero points halfway between two levels: in calibration, in what is stored, in both engines, in the pictures."""

import dataclasses

import pytest
import torch
from tiny_runs import calibrated
from torch import Tensor

from abq_core.analysis.diagnostics import diagnose
from abq_core.calibration.artifacts import BlockArtifact
from abq_core.calibration.quantized_block import stored_artifact
from abq_core.inference.runtime import quantized_model
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.spec import METHODS

ROUNDED = dataclasses.replace(METHODS["rtn"], clip_search=True, half_zero=True)


@pytest.mark.parametrize(("precision", "spacing"), [("W2A8", 2), ("W7A8", 2), ("W8A8", 1), ("W2*A8", 1)])
def test_a_star_and_eight_bits_keep_whole_ones(base: LoadedModel, precision: str, spacing: int) -> None:
    for index in (0, 1):
        weights = stored_artifact(calibrated(base, precision, switches=ROUNDED), index).weights.values()
        assert {weight.spacing for weight in weights} == {spacing}
        between = [bool((weight.zero % weight.spacing).any()) for weight in weights]
        assert all(between) if spacing == 2 else not any(between)


@pytest.mark.parametrize("precision", ["W2A8", "W3A4", "W4A8g32", "W2A16"])
def test_the_packed_model_computes_what_the_simulated_one_does(base: LoadedModel, ids: Tensor, precision: str) -> None:
    for method, switches in (("rtn", ROUNDED), ("abq", dataclasses.replace(METHODS["abq"], half_zero=True))):
        store = calibrated(base, precision, method=method, switches=switches)
        models = [quantized_model(base, Precision.parse(precision), store, e) for e in ("packed", "simulated")]
        packed, simulated = (model.model(ids).logits for model in models)
        assert (packed - simulated).abs().median() < 1e-5 * simulated.abs().max()


def test_they_stay_through_the_trip_to_tensors_in_one_byte(base: LoadedModel) -> None:
    stored = calibrated(base, "W7A8", switches=ROUNDED).blocks[0]
    artifact = BlockArtifact.from_tensors(stored)
    flat = artifact.to_tensors(dict.fromkeys(artifact.weights, Precision.parse("W7A8")))
    assert all(torch.equal(flat[name], tensor) for name, tensor in stored.items())
    zeros = [tensor for name, tensor in stored.items() if name.endswith(".zero")]
    assert zeros and all(zero.dtype == torch.uint8 for zero in zeros)


def test_a_run_from_before_them_is_read_as_it_was(base: LoadedModel) -> None:
    stored = calibrated(base, "W2A8", switches=METHODS["rtn"]).blocks[0]
    old = {name: tensor[:2] if name.endswith(".columns") else tensor for name, tensor in stored.items()}
    before, now = BlockArtifact.from_tensors(old).weights, BlockArtifact.from_tensors(stored).weights
    for name, weight in now.items():
        assert before[name].spacing == 1 and torch.equal(before[name].dequantize(), weight.dequantize())


def test_the_levels_picture_counts_halves_of_a_step(base: LoadedModel, ids: Tensor) -> None:
    levels = diagnose(base, Precision.parse("W2A8"), calibrated(base, "W2A8", switches=ROUNDED), ids)["levels"]
    assert set(levels.query("lens == 'corrected'")["level"] * 2 % 2) == {0, 1}
    assert set(levels.query("lens == 'rounded'")["level"] % 1) == {0}
