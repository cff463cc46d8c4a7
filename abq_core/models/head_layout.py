"""How a block's attention channels divide into heads, and which of them RoPE rotates together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from abq_core.models.architectures import PARTLY_ROTATED, Rows


@dataclass(frozen=True)
class HeadLayout:
    """How a block's attention channels divide into heads. rotary: channels of a head that RoPE turns, the first ones;
    channel j is turned together with channel j + rotary / 2.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rotary: int

    @classmethod
    def of(cls, config: object) -> "HeadLayout":
        heads = int(getattr(config, "num_attention_heads", 1))
        head_dim = int(getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads) // heads)
        return cls(heads, _kv_heads(config, heads), head_dim, _rotary(config, head_dim))

    def to_queries(self, per_kv_channel: Tensor) -> Tensor:
        """(kv_heads * head_dim,) -> (heads * head_dim,): each kv head serves a group of query heads."""
        grouped = per_kv_channel.view(self.kv_heads, 1, self.head_dim)
        return grouped.expand(-1, self.heads // self.kv_heads, -1).reshape(-1)

    def per_kv_channel(self, per_query_channel: Tensor) -> Tensor:
        """(heads * head_dim,) -> (kv_heads * head_dim,): the largest value over the query heads of a kv head."""
        return per_query_channel.view(self.kv_heads, -1, self.head_dim).amax(1).reshape(-1)

    @property
    def free(self) -> int:
        """How many values a query-key pair has: channels that are turned together share one."""
        return self.kv_heads * (self.head_dim - self.rotary // 2)

    def turned(self, free: Tensor) -> Tensor:
        """(free,) -> (kv_heads * head_dim,): each value at all of its channels."""
        half = self.rotary // 2
        by_head = free.view(self.kv_heads, -1)
        return torch.cat([by_head[:, :half], by_head], dim=1).reshape(-1)

    def index(self, rows: Rows, count: int) -> Tensor:
        """Which of a linear's `count` output rows these are, int64, in the order of heads."""
        every, group = torch.arange(count), self.heads // self.kv_heads
        if rows.part is None:
            return every
        if rows.part == "up":
            return every[count // 2 :]
        if rows.by_head:
            heads = every.view(self.kv_heads, group + 2, self.head_dim)
            query, key, value = heads[:, :group], heads[:, group], heads[:, group + 1]
        else:
            keys = self.kv_heads * self.head_dim
            query, key, value = every.split([count - 2 * keys, keys, keys])
        return {"query": query, "key": key, "value": value}[rows.part].reshape(-1)


def _kv_heads(config: object, heads: int) -> int:
    """Falcon says it in three keys."""
    if getattr(config, "new_decoder_architecture", False):
        return int(getattr(config, "num_kv_heads", None) or heads)
    if getattr(config, "multi_query", False):
        return 1
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _rotary(config: object, head_dim: int) -> int:
    """A model without RoPE has no `rope_parameters`, or says `alibi`."""
    rope = getattr(config, "rope_parameters", None)
    if not rope or getattr(config, "alibi", False):
        return 0
    partial = getattr(config, "model_type", None) in PARTLY_ROTATED
    return int(head_dim * (rope.get("partial_rotary_factor") or 1.0)) if partial else head_dim
