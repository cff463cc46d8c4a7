"""The layout of a block's attention channels: heads, grouped-query groups and RoPE pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from abq_core.models.architectures import PARTLY_ROTATED, Rows


@dataclass(frozen=True)
class HeadLayout:
    """Division of attention channels into heads.

    rotary: how many channels of each head RoPE rotates. They come first; channel j is paired with j + rotary / 2.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rotary: int

    @classmethod
    def of(cls, config: object) -> "HeadLayout":
        """The layout that a transformers config describes."""
        heads = int(getattr(config, "num_attention_heads", 1))
        head_dim = int(getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads) // heads)
        return cls(heads, _kv_heads(config, heads), head_dim, _rotary(config, head_dim))

    def to_queries(self, per_kv_channel: Tensor) -> Tensor:
        """Repeat the values of each kv head for the query heads of its group.

        (kv_heads * head_dim,) -> (heads * head_dim,).
        """
        grouped = per_kv_channel.view(self.kv_heads, 1, self.head_dim)
        return grouped.expand(-1, self.heads // self.kv_heads, -1).reshape(-1)

    def per_kv_channel(self, per_query_channel: Tensor) -> Tensor:
        """Maximum over each group: (heads * head_dim,) -> (kv_heads * head_dim,)."""
        return per_query_channel.view(self.kv_heads, -1, self.head_dim).amax(1).reshape(-1)

    @property
    def query_key_values(self) -> int:
        """The number of independent balance values of a query-key pair.

        Two channels that RoPE pairs share one value.
        """
        return self.kv_heads * (self.head_dim - self.rotary // 2)

    def expand_query_key(self, values: Tensor) -> Tensor:
        """(query_key_values,) -> (kv_heads * head_dim,): each value at every channel that shares it."""
        half = self.rotary // 2
        by_head = values.view(self.kv_heads, -1)
        return torch.cat([by_head[:, :half], by_head], dim=1).reshape(-1)

    def row_indices(self, rows: Rows, count: int) -> Tensor:
        """Indices of `rows` among a linear's `count` output rows, int64, ordered by head."""
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
    """Falcon spreads the number of kv heads over three keys."""
    if getattr(config, "new_decoder_architecture", False):
        return int(getattr(config, "num_kv_heads", None) or heads)
    if getattr(config, "multi_query", False):
        return 1
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _rotary(config: object, head_dim: int) -> int:
    """Rotated channels per head; 0 for a model without `rope_parameters` or with ALiBi."""
    rope = getattr(config, "rope_parameters", None)
    if not rope or getattr(config, "alibi", False):
        return 0
    partial = getattr(config, "model_type", None) in PARTLY_ROTATED
    return int(head_dim * (rope.get("partial_rotary_factor") or 1.0)) if partial else head_dim
