"""Falcon with attention through `abq_attention` and plain `nn.Linear` layers.

transformers selects Falcon's attention by class, not through `AttentionInterface`. The class below connects the two;
splitting into heads, RoPE and the KV cache remain transformers' code.
"""

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from abq_core.models.attention.function import abq_attention
from abq_core.models.transformers_internals import FalconAttention, FalconLinear, apply_rotary_pos_emb, split_heads
from abq_core.quantization.quant_linear import replace_module


class InterfaceFalconAttention(FalconAttention):
    """FalconAttention with the same parameters and results, through `abq_attention`.

    For an ALiBi model the mask includes the ALiBi bias.
    """

    def forward(
        self,
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        layer_past: Cache | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Map hidden_states to (batch, tokens, hidden), and None for the weights."""
        query, key, value = (x.transpose(1, 2) for x in split_heads(self, self.query_key_value(hidden_states)))
        if alibi is None and position_embeddings is not None:
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        output, weights = abq_attention(self, query, key, value, attention_mask, scaling=self.inv_norm_factor)
        return self.dense(output.flatten(2)), weights


def replace_falcon_linears(model: nn.Module) -> None:
    """Replace every FalconLinear by an `nn.Linear` that shares its parameters, in place.

    Quantization finds linears by the type `nn.Linear`, and export formats expect it.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, FalconLinear):
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
            linear.weight, linear.bias = module.weight, module.bias
            replace_module(model, name, linear)
