"""The Hadamard transform.

Gradients, its effect on outliers, and its place in artifacts and both engines.
"""

import dataclasses

import pytest
import torch
from tiny_runs import calibrated
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact
from abq_core.calibration.block_inputs import capture_block_inputs
from abq_core.calibration.quantized_block import quantized_block, stored_artifact
from abq_core.inference.runtime import quantized_model, rounded_model
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.hadamard import hadamard
from abq_core.quantization.quant_linear import QuantLinear, linears_of
from abq_core.quantization.quantizers import fake_quant_activation
from abq_core.spec import METHODS

ROUNDED = dataclasses.replace(METHODS["rtn"], hadamard=True)
LEARNED = dataclasses.replace(METHODS["abq"], hadamard=True)


def test_gradients_go_through_the_same_matrix() -> None:
    x = torch.randn(3, 5, 24, requires_grad=True)
    weights = torch.randn(3, 5, 24)
    (hadamard(x, 8) * weights).sum().backward()
    torch.testing.assert_close(x.grad, hadamard(weights, 8))
    torch.testing.assert_close(hadamard(hadamard(x, 8), 8), x)
    assert hadamard(x, 1) is x


def test_half_precision_inputs_are_transformed_in_float32() -> None:
    x = torch.randn(4, 64).bfloat16().requires_grad_()
    transformed = hadamard(x, 64)
    assert transformed.dtype == torch.float32
    assert torch.equal(transformed, hadamard(x.float(), 64))
    transformed.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_transformed_linear_has_the_same_output(dtype: torch.dtype) -> None:
    linear = nn.Linear(96, 20).to(dtype)
    x = torch.randn(2, 7, 96).to(dtype)
    expected = linear(x)
    behind = QuantLinear.wrap(linear, 16, hadamard=32)
    behind.weight = nn.Parameter(hadamard(linear.weight, 32).to(dtype))
    found = behind(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5 if dtype == torch.float32 else 1e-2)


def test_an_outlier_channel_leaves_levels_to_the_other_channels() -> None:
    x = torch.randn(50, 256, generator=torch.Generator().manual_seed(0))
    x[:, 7] *= 100
    rounded = fake_quant_activation(x, 4)
    transformed = hadamard(fake_quant_activation(hadamard(x, 256), 4), 256)
    others = torch.arange(256) != 7
    assert (transformed - x)[:, others].pow(2).mean() < 0.25 * (rounded - x)[:, others].pow(2).mean()


def test_only_quantized_inputs_are_transformed(base: LoadedModel, ids: Tensor) -> None:
    """At 8 bits the model stays close to full precision: input and weight go through the same matrix."""
    full = base.model(ids).logits
    for precision in ("W8A8", "W16A8"):
        store = calibrated(base, precision, switches=ROUNDED)
        model = quantized_model(base, Precision.parse(precision), store, "simulated")
        assert (model.model(ids).logits - full).abs().max() < 0.05 * full.abs().max()
        assert set(stored_artifact(store, 0).hadamards) == set(linears_of(blocks_of(base.model)[0]))
    assert stored_artifact(calibrated(base, "W4A16", switches=ROUNDED), 0).hadamards == {}


def test_the_packed_model_equals_the_simulated_one(base: LoadedModel, ids: Tensor) -> None:
    for precision, switches in (("W4A4", ROUNDED), ("W2*A8", LEARNED), ("W4A4g32", LEARNED)):
        store = calibrated(base, precision, method="abq", switches=switches)
        models = [quantized_model(base, Precision.parse(precision), store, e) for e in ("packed", "simulated")]
        packed, simulated = (model.model(ids).logits for model in models)
        assert (packed - simulated).abs().median() < 1e-5 * simulated.abs().max()


def test_block_sizes_are_stored_with_the_block(base: LoadedModel) -> None:
    store = calibrated(base, "W4A4", switches=ROUNDED)
    artifact = BlockArtifact.from_tensors(store.blocks[0])
    assert set(artifact.hadamards.values()) == {32, 64}
    flat = artifact.to_tensors(dict.fromkeys(artifact.weights, Precision.parse("W4A4")))
    assert all(torch.equal(flat[name], tensor) for name, tensor in store.blocks[0].items())


def test_it_lowers_the_error_of_an_mlp_with_outliers_before_its_last_linear(base: LoadedModel, ids: Tensor) -> None:
    outliers = load_model(base.ref)
    with torch.no_grad():
        for block in blocks_of(outliers.model):
            up, down = block.get_parameter("mlp.up_proj.weight"), block.get_parameter("mlp.down_proj.weight")
            up[3] *= 50
            down[:, 3] /= 50
    precision = Precision.parse("W8A4")
    hidden, block = capture_block_inputs(outliers.model, ids).hidden, blocks_of(outliers.model)[0]
    full = block.get_submodule("mlp")(hidden)
    errors = []
    for switches in (METHODS["rtn"], ROUNDED):
        artifact = stored_artifact(calibrated(outliers, "W8A4", switches=switches), 0)
        rounded = quantized_block(block, artifact, precision, 0, "simulated")
        errors.append((rounded.get_submodule("mlp")(hidden) - full).pow(2).mean())
    assert errors[1] < 0.5 * errors[0]


def test_rounding_without_calibration_uses_no_transform(base: LoadedModel, ids: Tensor) -> None:
    model = rounded_model(base, Precision.parse("W4A4"), "simulated")
    assert {m.hadamard for m in model.model.modules() if isinstance(m, QuantLinear)} == {1}
