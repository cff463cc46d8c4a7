"""The learned values of a block and the parameters that follow from them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from abq_core.calibration.block_quantizer import ACT_CLIPPING_RATE, BALANCE_RATE, CLIPPING_RATE, ROUNDING_RATE
from abq_core.methods import METHODS
from abq_core.quantization.quantizers import quantize_weight

RATES = {
    "balance": BALANCE_RATE,
    "clipping": CLIPPING_RATE,
    "rounding": ROUNDING_RATE,
    "act_clipping": ACT_CLIPPING_RATE,
}


@pytest.mark.parametrize(
    ("method", "groups"),
    [
        ("rtn", []),
        ("smoothquant", []),
        ("omniquant", ["balance", "clipping"]),
        ("abq", ["balance", "clipping"]),
        ("abq+", ["balance", "clipping", "rounding", "act_clipping"]),
    ],
)
def test_optimizer_groups_are_those_of_the_switches(first_block: Any, method: str, groups: list[str]) -> None:
    found = first_block.quantizer("W4A4", METHODS[method]).parameter_groups()
    assert [(group["switch"], group["lr"]) for group in found] == [(name, RATES[name]) for name in groups]
    assert all(parameter.requires_grad for group in found for parameter in group["params"])


def test_rounding_to_nearest_is_the_plain_quantizer(first_block: Any) -> None:
    quantizer = first_block.quantizer("W3A8", METHODS["rtn"])
    artifact = quantizer.artifact()
    for name, weight in artifact.weights.items():
        expected = quantize_weight(first_block.module.get_submodule(name).weight, quantizer.precisions[name])
        assert torch.equal(weight.codes, expected.codes) and torch.equal(weight.scale, expected.scale)
    assert not artifact.learned and not artifact.act_clips and not artifact.hadamards


@pytest.mark.parametrize("method", ["omniquant", "abq", "abq+"])
def test_the_artifact_is_what_was_simulated_while_learning(first_block: Any, method: str) -> None:
    quantizer = first_block.quantizer("W3A8", METHODS[method], compensate=METHODS[method].compensation)
    simulated, artifact = quantizer.quantized_parameters(), quantizer.artifact()
    for name, weight in artifact.weights.items():
        torch.testing.assert_close(weight.dequantize(), simulated[f"{name}.weight"].detach(), atol=1e-6, rtol=1e-5)


def test_gradients_reach_all_learned_values(first_block: Any) -> None:
    quantizer = first_block.quantizer("W3A8", replace(METHODS["abq+"], compensation=True), compensate=True)
    sum(tensor.square().sum() for tensor in quantizer.quantized_parameters().values()).backward()
    learned = [parameter for group in quantizer.parameter_groups() for parameter in group["params"]]
    without = [parameter for parameter in learned if parameter.grad is None]
    assert not without and len(learned) == len(quantizer.state())


def test_state_continues_bit_for_bit(first_block: Any) -> None:
    one, other = (first_block.quantizer("W2A8", METHODS["abq+"]) for _ in range(2))
    with torch.no_grad():
        for index, group in enumerate(one.parameter_groups()):
            for parameter in group["params"]:
                parameter.mul_(0.9).add_(0.01 * index)
    other.load_state(one.state())
    for name, weight in one.artifact().weights.items():
        assert torch.equal(weight.codes, other.artifact().weights[name].codes)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())


def test_values_are_clamped_after_a_step(first_block: Any) -> None:
    quantizer = first_block.quantizer("W2A8", METHODS["abq+"])
    with torch.no_grad():
        for tensor in (*quantizer.offsets.values(), *quantizer.act_clips.values()):
            tensor.fill_(3.0)
    quantizer.after_step()
    assert all(offset.max() == 0.5 for offset in quantizer.offsets.values())
    assert all(clip == 1 for clip in quantizer.act_clips.values())
    quantizer.after_step(1.0)
    with torch.no_grad():
        for tensor in (*quantizer.offsets.values(), *quantizer.act_clips.values()):
            tensor.fill_(-3.0)
    quantizer.after_step(1.0)
    assert all(offset.min() == -1 for offset in quantizer.offsets.values())
    assert all(clip.item() == pytest.approx(0.1) for clip in quantizer.act_clips.values())


def test_weights_and_activations_of_16_bits_are_left_alone(first_block: Any) -> None:
    switches = METHODS["abq+"]
    weights_only, activations_only = (first_block.quantizer(name, switches) for name in ("W4A16", "W16A4"))
    assert not weights_only.act_clips and not weights_only.hadamards and weights_only.offsets
    assert not activations_only.offsets and not activations_only.quantized and activations_only.hadamards
