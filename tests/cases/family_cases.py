"""Tiny configs of every family and of variants with different blocks.

Hidden 64, 2 blocks, grouped-query attention if the family supports it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.utils import logging

_SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GATED = {**_SIZES, "intermediate_size": 96, "num_key_value_heads": 2}
_LOCAL_GLOBAL = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
_OPT = {**_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64}
_FALCON = {**_SIZES, "ffn_hidden_size": 96}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_NEW_FALCON = {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_GATED),
    "llama-3.1": lambda: LlamaConfig(
        **_GATED,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "mistral": lambda: MistralConfig(**_GATED, sliding_window=6),
    "qwen2": lambda: Qwen2Config(**_GATED),
    "qwen3": lambda: Qwen3Config(**_GATED, head_dim=32),
    "gemma": lambda: GemmaConfig(**_GATED, head_dim=32),
    "gemma2": lambda: Gemma2Config(
        **_GATED, **_LOCAL_GLOBAL, head_dim=32, attn_logit_softcapping=2.0, final_logit_softcapping=3.0
    ),
    "gemma3_text": lambda: Gemma3TextConfig(**_GATED, **_LOCAL_GLOBAL, head_dim=32, attn_logit_softcapping=2.0),
    "phi": lambda: PhiConfig(**_GATED),
    "phi-normed": lambda: PhiConfig(**_GATED, qk_layernorm=True, hidden_act="relu"),
    "phi3": lambda: Phi3Config(**_GATED),
    "phi3-partial": lambda: Phi3Config(
        **_GATED,
        sliding_window=6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    "opt": lambda: OPTConfig(**_OPT),
    "opt-post-norm": lambda: OPTConfig(**_OPT, do_layer_norm_before=False),
    "opt-gelu": lambda: OPTConfig(**_OPT, activation_function="gelu"),
    "gpt_neox": lambda: GPTNeoXConfig(**_SIZES, intermediate_size=96),
    "gpt_neox-serial": lambda: GPTNeoXConfig(
        **_SIZES, intermediate_size=96, use_parallel_residual=False, hidden_act="relu"
    ),
    "falcon": lambda: FalconConfig(**_FALCON),
    "falcon-rw": lambda: FalconConfig(**_FALCON, alibi=True, bias=True, multi_query=False, parallel_attn=False),
    "falcon-40b": lambda: FalconConfig(**_NEW_FALCON),
    "falcon-11b": lambda: FalconConfig(**_NEW_FALCON, num_ln_in_parallel_attn=1),
    "mixtral": lambda: MixtralConfig(**_GATED, num_local_experts=4),
    "qwen2_moe": lambda: Qwen2MoeConfig(**_GATED, **_EXPERTS, shared_expert_intermediate_size=48),
    "qwen3_moe": lambda: Qwen3MoeConfig(**_GATED, **_EXPERTS, head_dim=32, mlp_only_layers=[0], norm_topk_prob=True),
}
VARIANTS: dict[str, Callable[[], PreTrainedConfig]] = {  # for the decoders: other norms, biases and rotary embeddings
    "opt-plain": lambda: OPTConfig(**_OPT, layer_norm_elementwise_affine=False, enable_bias=False),
    "opt-no-final-norm": lambda: OPTConfig(**_OPT, _remove_final_layer_norm=True),
    "gpt_neox-plain": lambda: GPTNeoXConfig(**_SIZES, intermediate_size=96, attention_bias=False),
    "phi3-long": lambda: Phi3Config(
        **_GATED,
        original_max_position_embeddings=14,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [1.5] * 8,
            "original_max_position_embeddings": 14,
        },
    ),
}
FAMILIES = sorted({make().model_type for make in CONFIGS.values()})
ONE_EACH = [case for case in CONFIGS if case in FAMILIES]  # the first case of a family has the family's name


def family_model(case: str, attention: str = "eager") -> PreTrainedModel:
    """A model with random biases, norm gains with outlier channels, and peaked output distributions."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config({**CONFIGS, **VARIANTS}[case](), attn_implementation=attention)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                gain = torch.exp(torch.randn_like(parameter) * 0.8)
                parameter.copy_(gain - 1 if case.startswith("gemma") else gain)
            elif parameter.ndim == 1:
                parameter.normal_(std=0.3)
            elif "embed" not in name:
                parameter.normal_(std=0.1)
    return model.eval().requires_grad_(False)


def family_folder(case: str, folder: Path, tokenizer: Path) -> Path:
    """Save the model with save_pretrained, and copy the tokenizer of another folder."""
    logging.disable_progress_bar()
    family_model(case).save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
