"""Losses of the calibration: double log cosine, attention KL, token KL.

Distribution Correction in arXiv 2408.08554.
"""

from typing import Any

import torch
from torch import Tensor

_FLOOR = 1e-8


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity per token of two (..., tokens, hidden) tensors, averaged over tokens."""
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1).mean()


def log_cosine(a: Tensor, b: Tensor) -> Tensor:
    """-log of `mean_cosine`: one term of the double log cosine."""
    return -torch.log(mean_cosine(a, b).clamp(min=_FLOOR))


def dlc_loss(quantized: Tensor, full: Tensor, full_on_quantized: Tensor) -> Tensor:
    """Double log cosine: -log cos(d_q, d_fp) - log cos(d_q, d_fp*).

    All (batch, tokens, hidden): the quantized block's output, the full-precision block's, and the full-precision
    block's on the quantized model's input.
    """
    return log_cosine(quantized, full) + log_cosine(quantized, full_on_quantized)


def token_kl(logits: Tensor, full: Tensor) -> Tensor:
    """KL(full || quantized) of next-token distributions in nats, averaged over tokens.

    Only `logits` gets gradients.
    logits, full: (..., vocabulary) of the quantized and of the full-precision model.
    """
    value: Tensor = _TokenKl.apply(logits.float().flatten(0, -2), full.float().flatten(0, -2))
    return value


class _TokenKl(torch.autograd.Function):
    """KL with an explicit gradient: the difference of the two distributions.

    It needs half of autograd's passes over the logits, the largest tensor of a step.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, full: Tensor) -> Tensor:
        learned, target = torch.log_softmax(logits, -1), torch.log_softmax(full, -1)
        p = target.exp()
        loss = torch.dot(p.flatten(), (target - learned).flatten()) / len(p)
        ctx.save_for_backward(learned.exp_().sub_(p).div_(len(p)))
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * gradients[0], None


def attention_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats, averaged over queries.

    p, q (..., queries, keys) are causal attention probabilities.
    Future positions are masked: their probability is zero in both.
    """
    visible = torch.ones(p.shape[-2:], dtype=torch.bool, device=p.device).tril(p.shape[-1] - p.shape[-2])
    terms = p * (p.clamp(min=_FLOOR).log() - q.clamp(min=_FLOOR).log())
    return terms.masked_fill(~visible, 0.0).sum(-1).mean()


def akl_loss(quantized: Tensor, full: Tensor) -> Tensor:
    """Attention-aware KL: KL(P_q || P_fp) + KL(P_fp || P_q)."""
    return attention_kl(quantized, full) + attention_kl(full, quantized)


def head_mean(maps: Tensor) -> Tensor:
    """Average attention maps over heads, as the authors' code does.

    (batch, heads, q, k) -> (batch, 1, q, k).
    """
    return maps.mean(1, keepdim=True)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats, (...,), of log-probabilities (..., vocabulary).

    Negative rounding errors are clamped to 0.
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0)
