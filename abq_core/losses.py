"""The objective of the calibration (arXiv 2408.08554, Distribution Correction): double log cosine and attention KL."""

import torch
from torch import Tensor

_FLOOR = 1e-8


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine per token (last dimension) of two (..., tokens, hidden) tensors, averaged over tokens."""
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1).mean()


def log_cosine(a: Tensor, b: Tensor) -> Tensor:
    """-log of `mean_cosine`: half of the double log cosine."""
    return -torch.log(mean_cosine(a, b).clamp(min=_FLOOR))


def dlc_loss(quantized: Tensor, full: Tensor, full_on_quantized: Tensor) -> Tensor:
    """Double log cosine: -log cos(d_q, d_fp) - log cos(d_q, d_fp*).

    All (batch, tokens, hidden): the quantized block's output, the full-precision block's, and the full-precision
    block's on the quantized model's input.
    """
    return log_cosine(quantized, full) + log_cosine(quantized, full_on_quantized)


def attention_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats, averaged over queries; p, q (..., queries, keys) are causal attention probabilities.

    Future positions are masked: their probability is zero on both sides and they are no part of the distribution.
    """
    visible = torch.ones(p.shape[-2:], dtype=torch.bool, device=p.device).tril(p.shape[-1] - p.shape[-2])
    terms = p * (p.clamp(min=_FLOOR).log() - q.clamp(min=_FLOOR).log())
    return terms.masked_fill(~visible, 0.0).sum(-1).mean()


def akl_loss(quantized: Tensor, full: Tensor) -> Tensor:
    """Attention-aware KL: KL(P_q || P_fp) + KL(P_fp || P_q)."""
    return attention_kl(quantized, full) + attention_kl(full, quantized)


def head_mean(maps: Tensor) -> Tensor:
    """(batch, heads, q, k) -> (batch, 1, q, k): the authors' code compares maps averaged over heads."""
    return maps.mean(1, keepdim=True)
