"""Which tokens a KV cache of limited size keeps, simulated on the attention scores of a whole text."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheBudget:
    """A KV cache that holds at most `tokens` tokens per head, the newest among them.

    sinks: of the first tokens, always kept.  by_mass: a full cache drops the token that later queries attended to
    least, among those that are neither sinks nor in the newer half of the rest (H2O, arXiv 2306.14048). Otherwise it
    drops the oldest (sinks and a window: StreamingLLM, arXiv 2309.17453).
    """

    tokens: int
    sinks: int = 4
    by_mass: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sinks < self.tokens - 1:
            raise ValueError(f"A cache of {self.tokens} tokens cannot keep {self.sinks} sinks and newer tokens.")

    def kept(self, scores: Tensor, kv_heads: int) -> Tensor:
        """What each query still sees: bool (batch, heads, tokens, tokens), for scores of that shape.

        scores: of all tokens of a text, before the softmax, with the causal mask applied.
        """
        if self.by_mass:
            return self._by_mass(scores, kv_heads)
        query, key = (torch.arange(scores.shape[-1], device=scores.device).view(shape) for shape in ((-1, 1), (1, -1)))
        in_window = (query - key < self.tokens - self.sinks) | (key < self.sinks)
        return (in_window & (key <= query)).expand_as(scores)

    def _by_mass(self, scores: Tensor, kv_heads: int) -> Tensor:
        batch, heads, length, _ = scores.shape
        grouped = scores.view(batch, kv_heads, heads // kv_heads, length, length)
        held = torch.zeros(batch, kv_heads, length, dtype=torch.bool, device=scores.device)
        mass = torch.zeros(batch, kv_heads, length, device=scores.device)
        kept = torch.zeros(batch, kv_heads, length, length, dtype=torch.bool, device=scores.device)
        newer = (self.tokens - self.sinks + 1) // 2
        for query in range(length):
            held[..., query] = True
            if query >= self.tokens:
                may_go = held[..., self.sinks : query + 1 - newer]
                least = (
                    mass[..., self.sinks : query + 1 - newer].masked_fill(~may_go, torch.inf).argmin(-1, keepdim=True)
                )
                held.scatter_(-1, least + self.sinks, False)
            seen = held[..., : query + 1]
            kept[:, :, query, : query + 1] = seen
            visible = grouped[..., query, : query + 1].masked_fill(~seen.unsqueeze(2), -torch.inf)
            mass[..., : query + 1] += torch.softmax(visible, dim=-1, dtype=torch.float32).sum(2)
        return kept.repeat_interleave(heads // kv_heads, dim=1)
