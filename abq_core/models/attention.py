"""Attention as the explorer needs it: the one place where K and V are quantized and attention maps are taken.

Registered with transformers under the name "abq"; it gets query, key and value after the position embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.quantization.quantizers import fake_quant_activation

ATTENTION = "abq"


class AttentionError(RuntimeError):
    """An attention that cannot be quantized or looked at, because it does not call `abq_attention`."""


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
    """Scaled dot-product attention; query (batch, heads, q, d), key and value (batch, kv_heads, k, d).

    `module.kv_bits` (int or None) quantizes K and V per token and head. While `attention_maps` is open on the module,
    the probabilities (batch, heads, q, k) are appended to its list. Returns (batch, q, heads, d) and no weights.
    """
    kv_bits = getattr(module, "kv_bits", None)
    if kv_bits is not None:
        key, value = fake_quant_activation(key, kv_bits), fake_quant_activation(value, kv_bits)
    maps: list[Tensor] | None = getattr(module, "captured_maps", None)
    mask = attention_mask[..., : key.shape[-2]] if attention_mask is not None else None
    if maps is None and softcap is None:
        output = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return output.transpose(1, 2).contiguous(), None
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3)
    scores *= scaling if scaling is not None else query.shape[-1] ** -0.5  # in place: a map of all heads is large
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores += mask
    probabilities = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    if maps is not None:
        maps.append(probabilities)
    return (probabilities @ value).transpose(1, 2).contiguous(), None


def attention_modules(parent: nn.Module) -> list[Any]:
    """The modules below `parent` that call the attention function, by the names that transformers gives them."""
    return [m for name, m in parent.named_modules() if name.rsplit(".", 1)[-1] in _ATTENTION_NAMES]


_ATTENTION_NAMES = frozenset({"self_attn", "attention", "self_attention", "attn"})


def set_kv_bits(parent: nn.Module, bits: int | None) -> None:
    """Quantize K and V of every attention below `parent` to `bits`; None takes it away.

    Raises AttentionError where there is no attention to quantize.
    """
    modules = attention_modules(parent)
    if bits is not None and not modules:
        raise AttentionError(
            f"{type(parent).__name__} has no attention whose K and V could get {bits} bits: leave kv{bits} away."
        )
    for module in modules:
        module.kv_bits = bits


@contextmanager
def attention_maps(parent: nn.Module, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Collect the attention probabilities of every call below `parent` while open; nothing where not `wanted`.

    Raises AttentionError where no attention gave any.
    """
    collected: list[Tensor] = []
    modules = attention_modules(parent) if wanted else []
    for module in modules:
        module.captured_maps = collected
    try:
        yield collected
    finally:
        for module in modules:
            del module.captured_maps
    if wanted and not collected:
        raise AttentionError(
            f"{type(parent).__name__} gave no attention map: load the model with load_model, and switch akl off where "
            "its family has no attention of its own."
        )
