"""Which modules of a block a token passes, by family: what `cpu_decoder.py` makes a program from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from abq_core.models.architectures import architecture_of, blocks_of
from kernels.token_program import GELU, GELU_TANH, RELU, SILU

_ACTIVATIONS = {
    "silu": SILU, "swish": SILU, "gelu": GELU, "gelu_new": GELU_TANH, "gelu_pytorch_tanh": GELU_TANH, "relu": RELU,
}  # fmt: skip


@dataclass(frozen=True)
class BlockParts:
    """The modules of a block.

    norm: before attention.  qkv: the linears of queries, keys and values, in this order; or one, fused.
    by_head: the rows of a fused one are grouped by kv head.  head_norms: of queries and keys.
    softcap: bound of the attention scores, 0 for none.  mlp_norm: None if `norm` feeds the MLP too.
    parallel: the MLP reads what attention reads, not its result.  up: one linear, or the linears of gate and up.
    after_attention, after_mlp: norms of what is added.
    """

    attention: Any
    norm: nn.Module
    qkv: Sequence[nn.Module]
    out: Any
    mlp_norm: nn.Module | None
    up: Sequence[nn.Module]
    down: Any
    gated: bool = True
    head_norms: tuple[nn.Module, nn.Module] | None = None
    after_attention: nn.Module | None = None
    after_mlp: nn.Module | None = None
    by_head: bool = False
    parallel: bool = False
    softcap: float = 0.0

    @property
    def linears(self) -> list[nn.Module]:
        """All linears."""
        return [*self.qkv, self.out, *self.up, self.down]


@dataclass(frozen=True)
class Family:
    """A family whose blocks can be taken apart.

    final_norm: its path below the base model.  activation: the config's field that names it.
    fits: whether a config of the family is supported.
    """

    parts: Callable[[Any], BlockParts]
    final_norm: str = "norm"
    activation: str = "hidden_act"
    fits: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class ModelParts:
    """The modules of a model. gain_offset: constant that its norms add to their weight.  activation: `SILU` ..."""

    blocks: Sequence[BlockParts]
    final_norm: Any
    gain_offset: float
    activation: int

    @property
    def linears(self) -> list[nn.Module]:
        """The linears of all blocks."""
        return [linear for block in self.blocks for linear in block.linears]


def parts_of(model: PreTrainedModel) -> ModelParts | None:
    """The modules of a model; None if its family or a setting is not supported."""
    config = model.config
    family = _FAMILIES.get(config.model_type)
    if family is None or not family.fits(config):
        return None
    activation = _ACTIVATIONS.get(getattr(config, family.activation))
    if activation is None:
        return None
    blocks = [family.parts(block) for block in blocks_of(model)]
    final_norm = model.base_model.get_submodule(family.final_norm)
    return ModelParts(blocks, final_norm, architecture_of(model).gain_offset, activation)


def _llama(block: Any) -> BlockParts:
    attention, mlp = block.self_attn, block.mlp
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    return BlockParts(
        attention, block.input_layernorm, qkv, attention.o_proj,
        block.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), mlp.down_proj,
    )  # fmt: skip


def _qwen3(block: Any) -> BlockParts:
    return replace(_llama(block), head_norms=(block.self_attn.q_norm, block.self_attn.k_norm))


def _gemma2(block: Any) -> BlockParts:
    return replace(_sandwiched(block), softcap=block.self_attn.attn_logit_softcapping or 0.0)


def _sandwiched(block: Any) -> BlockParts:
    return replace(
        _llama(block),
        after_attention=block.post_attention_layernorm,
        mlp_norm=block.pre_feedforward_layernorm,
        after_mlp=block.post_feedforward_layernorm,
    )


def _gemma3(block: Any) -> BlockParts:
    return replace(_sandwiched(block), head_norms=(block.self_attn.q_norm, block.self_attn.k_norm))


def _phi3(block: Any) -> BlockParts:
    attention, mlp = block.self_attn, block.mlp
    return BlockParts(
        attention, block.input_layernorm, (attention.qkv_proj,), attention.o_proj,
        block.post_attention_layernorm, (mlp.gate_up_proj,), mlp.down_proj,
    )  # fmt: skip


def _phi(block: Any) -> BlockParts:
    attention, mlp = block.self_attn, block.mlp
    return BlockParts(
        attention, block.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), attention.dense,
        None, (mlp.fc1,), mlp.fc2,
        gated=False,
        parallel=True,
        head_norms=(attention.q_layernorm, attention.k_layernorm) if attention.qk_layernorm else None,
    )  # fmt: skip


def _gpt_neox(block: Any) -> BlockParts:
    attention, mlp = block.attention, block.mlp
    return BlockParts(
        attention, block.input_layernorm, (attention.query_key_value,), attention.dense,
        block.post_attention_layernorm, (mlp.dense_h_to_4h,), mlp.dense_4h_to_h,
        gated=False, by_head=True, parallel=block.use_parallel_residual,
    )  # fmt: skip


def _opt(block: Any) -> BlockParts:
    attention = block.self_attn
    return BlockParts(
        attention, block.self_attn_layer_norm, (attention.q_proj, attention.k_proj, attention.v_proj),
        attention.out_proj, block.final_layer_norm, (block.fc1,), block.fc2,
        gated=False,
    )  # fmt: skip


def _is_pre_norm(config: Any) -> bool:
    """True for all OPT models but opt-350m, and a few old ones without a final norm."""
    has_final_norm = config.do_layer_norm_before and not config._remove_final_layer_norm
    return bool(has_final_norm) and config.word_embed_proj_dim == config.hidden_size


_FAMILIES = {
    "gemma": Family(_llama),
    "gemma2": Family(_gemma2, activation="hidden_activation"),
    "gemma3_text": Family(_gemma3, activation="hidden_activation"),
    "gpt_neox": Family(_gpt_neox, "final_layer_norm"),
    "llama": Family(_llama),
    "mistral": Family(_llama),
    "opt": Family(_opt, "decoder.final_layer_norm", "activation_function", _is_pre_norm),
    "phi": Family(_phi, "final_layernorm"),
    "phi3": Family(_phi3),
    "qwen2": Family(_llama),
    "qwen3": Family(_qwen3),
}
