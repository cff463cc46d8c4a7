"""Weight grids.

Ranges, groups, and half-step zero points through calibration, storage and both engines.
"""

import dataclasses

import pytest
import torch
from tiny_runs import calibrated
from torch import Tensor

from abq_core.calibration.artifacts import BlockArtifact
from abq_core.calibration.quantized_block import stored_artifact
from abq_core.inference.runtime import quantized_model
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.weight_grid import WeightGrid, affine_grid, grouped, round_through, weight_groups
from abq_core.spec import METHODS

ROUNDED = dataclasses.replace(METHODS["rtn"], clip_search=True, half_zero=True)


@pytest.mark.parametrize(("precision", "spacing"), [("W2A8", 2), ("W7A8", 2), ("W8A8", 1), ("W2*A8", 1)])
def test_half_steps_are_not_used_with_a_star_or_at_eight_bits(base: LoadedModel, precision: str, spacing: int) -> None:
    for index in (0, 1):
        weights = stored_artifact(calibrated(base, precision, switches=ROUNDED), index).weights.values()
        assert {weight.spacing for weight in weights} == {spacing}
        has_half_steps = [bool((weight.zero % weight.spacing).any()) for weight in weights]
        assert all(has_half_steps) if spacing == 2 else not any(has_half_steps)


@pytest.mark.parametrize("precision", ["W2A8", "W3A4", "W4A8g32", "W2A16"])
def test_the_packed_model_equals_the_simulated_one(base: LoadedModel, ids: Tensor, precision: str) -> None:
    for method, switches in (("rtn", ROUNDED), ("abq", dataclasses.replace(METHODS["abq"], half_zero=True))):
        store = calibrated(base, precision, method=method, switches=switches)
        models = [quantized_model(base, Precision.parse(precision), store, e) for e in ("packed", "simulated")]
        packed, simulated = (model.model(ids).logits for model in models)
        assert (packed - simulated).abs().median() < 1e-5 * simulated.abs().max()


def test_half_steps_are_stored_in_one_byte(base: LoadedModel) -> None:
    stored = calibrated(base, "W7A8", switches=ROUNDED).blocks[0]
    artifact = BlockArtifact.from_tensors(stored)
    flat = artifact.to_tensors(dict.fromkeys(artifact.weights, Precision.parse("W7A8")))
    assert all(torch.equal(flat[name], tensor) for name, tensor in stored.items())
    zeros = [tensor for name, tensor in stored.items() if name.endswith(".zero")]
    assert zeros and all(zero.dtype == torch.uint8 for zero in zeros)


def test_runs_written_before_half_steps_are_read_unchanged(base: LoadedModel) -> None:
    stored = calibrated(base, "W2A8", switches=METHODS["rtn"]).blocks[0]
    old = {name: tensor[:2] if name.endswith(".columns") else tensor for name, tensor in stored.items()}
    before, now = BlockArtifact.from_tensors(old).weights, BlockArtifact.from_tensors(stored).weights
    for name, weight in now.items():
        assert before[name].spacing == 1 and torch.equal(before[name].dequantize(), weight.dequantize())


def test_rounding_passes_gradients_unchanged() -> None:
    x = torch.tensor([0.5, 1.5, -0.4, 2.6], requires_grad=True)
    rounded = round_through(x)
    assert rounded.tolist() == [0, 2, 0, 3], "half to even"
    (rounded * torch.arange(4.0)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 2, 3]


def test_the_asymmetric_grid_spans_its_range() -> None:
    scale, zero = affine_grid(torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([2.0, 3.0, 0.0]), 2)
    assert scale.tolist() == [1, 1, 1] and zero.tolist() == [1, 0, 0]
    assert affine_grid(torch.tensor(-1.5), torch.tensor(1.5), 2, spacing=2)[1].item() == 1.5


@pytest.mark.parametrize(("k", "groups"), [(64, 2), (65, 3), (20, 1)])
def test_groups_are_padded_with_zeros(k: int, groups: int) -> None:
    precision = Precision.parse("W4A8g32")
    weight = torch.randn(3, k)
    parts = grouped(weight, precision)
    assert parts.shape == (3, groups, 32) and weight_groups(k, precision) == groups
    assert torch.equal(parts.flatten(1)[:, :k], weight) and parts.flatten(1)[:, k:].count_nonzero() == 0
    whole = Precision.parse("W4A8")
    assert grouped(weight, whole).shape == (3, 1, k) and weight_groups(k, whole) == 1


def test_clipping_scales_both_ends_of_the_range() -> None:
    low, high = torch.tensor([[[-1.0]]]), torch.tensor([[[2.0]]])
    clips = WeightGrid(torch.tensor([[0.5]]), torch.tensor([[0.25]])).clips()
    assert [clip.shape for clip in clips] == [(1, 1, 1)] * 2
    scale, zero = WeightGrid().steps(Precision.parse("W2A8"), low, high, *clips)
    assert scale.item() == pytest.approx(1 / 3) and zero.item() == 2
