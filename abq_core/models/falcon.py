"""Falcon, made like the other families: its attention goes through `abq_attention`, its linears are torch's.

transformers picks Falcon's attention by class and not by function, so it never asks `AttentionInterface`. The class
here joins the two: splitting, RoPE and cache are transformers' own.
"""

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.models.falcon.modeling_falcon import (
    FalconAttention,
    FalconLinear,
    apply_rotary_pos_emb,
)

from abq_core.models.attention import abq_attention
from abq_core.quantization.quant_linear import replace_module


class InterfaceFalconAttention(FalconAttention):
    """FalconAttention with the same parameters and results. The mask carries ALiBi where the model has it."""

    def forward(
        self,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        layer_past: Cache | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states (batch, tokens, hidden) -> (batch, tokens, hidden), and no weights."""
        query, key, value = (x.transpose(1, 2) for x in self._split_heads(self.query_key_value(hidden_states)))
        if alibi is None and position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        output, weights = abq_attention(self, query, key, value, attention_mask, scaling=self.inv_norm_factor)
        return self.dense(output.flatten(2)), weights


def plain_linears(model: nn.Module) -> None:
    """Put a `nn.Linear` with the same weight in the place of every FalconLinear, which other tools do not know."""
    for name, module in list(model.named_modules()):
        if isinstance(module, FalconLinear):
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            linear.weight, linear.bias = module.weight, module.bias
            replace_module(model, name, linear)
