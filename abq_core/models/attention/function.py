"""The attention function of every family; quantizes K and V, forgets tokens, records attention maps.

Registered with transformers under the name "abq" (`registration.py`). It receives query, key and value after the
position embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.models.attention.cache_budget import CacheBudget
from abq_core.quantization.quantizers import fake_quant_activation

ATTENTION = "abq"


class AttentionError(RuntimeError):
    """An attention module that does not call `abq_attention`.

    Its K and V cannot be quantized, and its maps cannot be recorded.
    """


def abq_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention, grouped-query if there are fewer kv heads.

    query: (batch, heads, q, d).  key, value: (batch, kv_heads, k, d).

    `module.kv_bits` (int or None) quantizes K and V per token and head. `module.cache_budget` (CacheBudget or None)
    hides the tokens that a cache of that size would have dropped; the call must then read a whole text. While
    `attention_maps` is active on the module, the probabilities (batch, heads, q, k) are appended to its list. Returns
    (batch, q, heads, d) and None for the attention weights.
    """
    kv_bits = getattr(module, "kv_bits", None)
    if kv_bits is not None:
        key, value = fake_quant_activation(key, kv_bits), fake_quant_activation(value, kv_bits)
    budget: CacheBudget | None = getattr(module, "cache_budget", None)
    maps: list[Tensor] | None = getattr(module, "captured_maps", None)
    mask = attention_mask[..., : key.shape[-2]] if attention_mask is not None else None
    if maps is None and softcap is None and budget is None:
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return output.transpose(1, 2).contiguous(), None
    kv_heads, repeats = key.shape[1], query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3)
    scores *= scaling if scaling is not None else query.shape[-1] ** -0.5  # in place: the scores of all heads are large
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores += mask
    if budget is not None:
        scores.masked_fill_(~budget.kept(scores, kv_heads), -torch.inf)
    probabilities = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    if maps is not None:
        maps.append(probabilities)
    return (probabilities @ value).transpose(1, 2).contiguous(), None


def attention_modules(parent: nn.Module) -> list[Any]:
    """The attention modules below `parent`, found by transformers' names for them."""
    return [m for name, m in parent.named_modules() if name.rsplit(".", 1)[-1] in _ATTENTION_NAMES]


_ATTENTION_NAMES = frozenset({"self_attn", "attention", "self_attention", "attn"})


def set_kv_bits(parent: nn.Module, bits: int | None) -> None:
    """Quantize K and V of every attention below `parent` to `bits`; None turns quantization off.

    Raises AttentionError if `parent` contains no attention.
    """
    modules = attention_modules(parent)
    if bits is not None and not modules:
        raise AttentionError(
            f"{type(parent).__name__} has no attention whose K and V could be quantized: remove kv{bits} from the "
            "precision."
        )
    for module in modules:
        module.kv_bits = bits


def set_cache_budget(parent: nn.Module, budget: CacheBudget | None) -> None:
    """Let every attention below `parent` forget tokens as a cache of this size does; None for a cache of all tokens.

    Raises AttentionError if `parent` contains no attention.
    """
    modules = attention_modules(parent)
    if budget is not None and not modules:
        raise AttentionError(f"{type(parent).__name__} has no attention whose KV cache could be limited.")
    for module in modules:
        module.cache_budget = budget


@contextmanager
def attention_maps(parent: nn.Module, enabled: bool = True) -> Iterator[list[Tensor]]:
    """Record the attention probabilities of every call below `parent`.

    Records nothing if not `enabled`.

    Raises AttentionError on exit if nothing was recorded.
    """
    collected: list[Tensor] = []
    modules = attention_modules(parent) if enabled else []
    for module in modules:
        module.captured_maps = collected
    try:
        yield collected
    finally:
        for module in modules:
            del module.captured_maps
    if enabled and not collected:
        raise AttentionError(
            f"{type(parent).__name__} recorded no attention map. Load the model with load_model; if its family is not "
            "supported, turn akl off."
        )
