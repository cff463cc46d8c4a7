"""Every part of transformers outside its documented API that the project uses.

Checked with transformers 5.17 to 5.23. `tests/abq_core/models/test_transformers_internals.py` names the part that an
update changed.
"""

from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import eager_mask
from transformers.models.falcon.modeling_falcon import (
    FALCON_ATTENTION_CLASSES,
    FalconAttention,
    FalconLinear,
    apply_rotary_pos_emb,
)

__all__ = ["FalconAttention", "FalconLinear", "apply_rotary_pos_emb", "eager_mask", "register_falcon", "split_heads"]


def split_heads(attention: Any, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the output of Falcon's fused projection into query, key and value.

    Each is (batch, tokens, heads, d).
    """
    query, key, value = attention._split_heads(fused)
    return query, key, value


def register_falcon(name: str, attention: type[nn.Module]) -> None:
    """Use `attention` in Falcon blocks built with `attn_implementation=name`.

    Falcon selects a class from this dictionary; `AttentionInterface`, the public registry, has no effect on it.
    """
    FALCON_ATTENTION_CLASSES[name] = attention
