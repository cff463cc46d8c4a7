"""Quantized blocks from artifacts, simulated and packed."""

from typing import Any

import pytest
import torch
from tiny_runs import calibrated

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.block_inputs import run_block
from abq_core.calibration.quantized_block import (
    MissingBlockError,
    quantized_block,
    rounded_artifact,
    stored_artifact,
)
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear, linears_of


def test_a_missing_block_is_named() -> None:
    with pytest.raises(MissingBlockError, match="Block 3 of this run is missing or damaged"):
        stored_artifact(MemoryStore(), 3)


@pytest.mark.parametrize("precision", ["W2*A8", "W3A8g32"])
def test_rounding_to_nearest_is_what_the_method_rtn_stores(base: LoadedModel, precision: str) -> None:
    parsed = Precision.parse(precision)
    artifact = rounded_artifact(base, 0, parsed)
    stored = stored_artifact(calibrated(base, precision), 0)
    assert artifact.weights.keys() == stored.weights.keys()
    for name, weight in artifact.weights.items():
        assert torch.equal(weight.codes, stored.weights[name].codes)


@pytest.mark.parametrize("precision", ["W2A8", "W2*A8", "W4A4g32", "W4A8kv4"])
def test_both_engines_compute_the_same_block(base: LoadedModel, first_block: Any, precision: str) -> None:
    parsed, before = Precision.parse(precision), first_block.module.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    artifact = rounded_artifact(base, 0, parsed)
    simulated, packed = (
        quantized_block(first_block.module, artifact, parsed, 0, engine) for engine in ("simulated", "packed")
    )
    assert all(isinstance(simulated.get_submodule(name), QuantLinear) for name in linears_of(first_block.module))
    assert all(isinstance(packed.get_submodule(name), PackedLinear) for name in linears_of(first_block.module))
    expected, actual = (run_block(one, first_block.hidden, first_block.arguments) for one in (simulated, packed))
    # A last-bit difference before rounding may move one code, so the bulk is compared, not the largest difference.
    assert (expected - actual).abs().median() < 1e-5 * expected.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in first_block.module.state_dict().items())


def test_stored_bytes_are_planes_scales_and_zero_points(base: LoadedModel, first_block: Any) -> None:
    parsed = Precision.parse("W2*A8g32")
    block = quantized_block(first_block.module, rounded_artifact(base, 0, parsed), parsed, 0, "simulated")
    for name, linear in linears_of(first_block.module).items():
        rows, k = linear.weight.shape
        assert block.get_submodule(name).stored_bytes == rows * k * 3 // 8 + rows * (k // 32) * 5
