"""Initial balance values, and the rows that they scale.

test_families.py tests that they fold into every family.
"""

import torch
from family_cases import family_model
from torch import nn

from abq_core.calibration.balance import Balance
from abq_core.calibration.block_inputs import capture_block_inputs, input_peaks
from abq_core.models.architectures import architecture_of, blocks_of
from abq_core.models.attention.function import ATTENTION
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.experts import split_experts
from abq_core.models.registration import register_attention


def balance_and_peaks(case: str) -> tuple[Balance, nn.Module, dict[str, torch.Tensor]]:
    register_attention()
    model = family_model(case, ATTENTION)
    split_experts(model)
    inputs = capture_block_inputs(model, torch.randint(0, 300, (1, 16)))
    block = blocks_of(model)[0]
    with input_peaks(block) as peaks:
        block(inputs.hidden, **inputs.arguments[0])
    return Balance(architecture_of(model), HeadLayout.of(model.config), block), block, peaks


def test_the_start_is_smoothquants_formula() -> None:
    balance, block, peaks = balance_and_peaks("llama")
    parameters = dict(block.named_parameters())
    values = balance.start(parameters, peaks)
    down = parameters["mlp.down_proj.weight"].abs().amax(0)
    torch.testing.assert_close(values["mlp.up_proj>mlp.down_proj"], (peaks["mlp.down_proj"] / down).sqrt())
    gate_up = torch.cat([parameters["mlp.gate_proj.weight"], parameters["mlp.up_proj.weight"]]).abs().amax(0)
    expected = (peaks["mlp.up_proj"] / gate_up).sqrt()
    torch.testing.assert_close(values["post_attention_layernorm>gate_proj+up_proj"], expected)
    assert torch.equal(values["self_attn.q_proj>self_attn.k_proj"], torch.ones(16))  # 2 kv heads, 8 rotated pairs each


def test_values_are_per_channel_that_can_be_scaled_by_itself() -> None:
    balance, block, peaks = balance_and_peaks("gpt_neox")
    values = balance.start(dict(block.named_parameters()), peaks)
    fused = "attention.query_key_value"
    assert len(values[f"{fused}[query]>{fused}[key]"]) == 4 * (2 + 12)  # 4 of a head's 16 channels are rotated
    assert len(values[f"{fused}[value]>attention.dense"]) == 64


def test_what_no_token_reaches_starts_at_one() -> None:
    balance, block, peaks = balance_and_peaks("mixtral")
    seen = {name: peak for name, peak in peaks.items() if "experts.1" not in name}
    values = balance.start(dict(block.named_parameters()), seen)
    assert torch.equal(values["mlp.experts.1.up_proj>mlp.experts.1.down_proj"], torch.ones(96))
    assert not torch.equal(values["mlp.experts.0.up_proj>mlp.experts.0.down_proj"], torch.ones(96))


def test_a_dead_relu_starts_at_one() -> None:
    balance, block, peaks = balance_and_peaks("opt-post-norm")
    dead = peaks["fc2"] == 0
    values = balance.start(dict(block.named_parameters()), peaks)["fc1>fc2"]
    assert 0 < dead.sum() < len(dead)
    assert torch.equal(values == 1, dead)
