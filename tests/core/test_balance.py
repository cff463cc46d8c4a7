"""Folding a balance into a block changes nothing in full precision."""

from pathlib import Path

import pytest
import torch
from torch.func import functional_call
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from abq_core.architectures import architecture_of, blocks_of
from abq_core.attention import ATTENTION, register_attention
from abq_core.balance import Balance, HeadLayout
from abq_core.block_inputs import block_output, capture_block_inputs, input_peaks

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GATED = {"intermediate_size": 48, "num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **GATED),
    "mistral": MistralConfig(**SIZES, **GATED),
    "qwen2": Qwen2Config(**SIZES, **GATED),
    "qwen3": Qwen3Config(**SIZES, **GATED, head_dim=8),
    "gemma": GemmaConfig(**SIZES, **GATED, head_dim=8),
    "opt": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32),
    "opt-post-norm": OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False),
}
PAIRS = {"llama": 5, "mistral": 5, "qwen2": 5, "qwen3": 4, "gemma": 5, "opt": 5, "opt-post-norm": 2}


@pytest.mark.parametrize("family", CONFIGS)
def test_folding_leaves_the_full_precision_output_unchanged(family: str, tmp_path: Path) -> None:
    register_attention()
    torch.manual_seed(0)
    model = (
        AutoModelForCausalLM.from_config(CONFIGS[family], attn_implementation=ATTENTION).eval().requires_grad_(False)
    )
    for parameter in model.parameters():  # norms start at one and biases at zero: make them matter
        parameter.add_(torch.randn_like(parameter) * 0.2)
    inputs = capture_block_inputs(model, torch.randint(0, 96, (2, 24)))
    block = blocks_of(model)[0]
    hidden = inputs.hidden[:1]
    with input_peaks(block) as peaks:
        expected = block_output(block(hidden, **inputs.arguments[0]))
    balance = Balance(architecture_of(model), HeadLayout.of(model.config), block)
    parameters = dict(block.named_parameters())
    values = balance.start(parameters, peaks)
    assert len(values) == PAIRS[family]
    shaken = {
        name: s * torch.rand(s.shape, generator=torch.Generator().manual_seed(1)).add(0.5) for name, s in values.items()
    }
    folded = balance.fold(parameters, shaken)
    changed = [name for name in folded if not torch.equal(folded[name], parameters[name])]
    assert len(changed) >= 4
    actual = block_output(functional_call(block, folded, (hidden,), inputs.arguments[0]))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_the_start_is_smoothquants_formula() -> None:
    register_attention()
    torch.manual_seed(0)
    model = (
        AutoModelForCausalLM.from_config(CONFIGS["llama"], attn_implementation=ATTENTION).eval().requires_grad_(False)
    )
    inputs = capture_block_inputs(model, torch.randint(0, 96, (1, 16)))
    block = blocks_of(model)[0]
    with input_peaks(block) as peaks:
        block(inputs.hidden, **inputs.arguments[0])
    parameters = dict(block.named_parameters())
    values = Balance(architecture_of(model), HeadLayout.of(model.config), block).start(parameters, peaks)
    down = parameters["mlp.down_proj.weight"].abs().amax(0)
    torch.testing.assert_close(values["mlp.up_proj>mlp.down_proj"], (peaks["mlp.down_proj"] / down).sqrt())
    assert torch.equal(values["self_attn.q_proj>self_attn.k_proj"], torch.ones(8))  # 2 kv heads, 4 rotated pairs each
