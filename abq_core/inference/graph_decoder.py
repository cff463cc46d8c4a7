"""One token through a model on a GPU as one CUDA graph, whatever its linears are: 16-bit, INT8 or packed.

The step computes on fixed buffers, in shapes that do not follow the position, and waits for nothing: so it can be
recorded. On the CPU the same step runs as it is. Which models it is for stands in `decoder.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from abq_core.inference.decode_ops import DecodeOps, DecodePosition, decode_ops_for, rounded
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.linear_stacks import stack_linears
from abq_core.models.architectures import blocks_of
from kernels.gpu import AttentionInput, Gated, Normed

BUCKET = 256  # positions that attention reads at a time
_UNSTEADY_ROPE = ("dynamic", "longrope")


class GraphDecoder:
    """A `Decoder` that records its step anew for each bucket of positions that a cache fills, and replays it.

    Where K and V are quantized it rounds them as the modules do and keeps them as floats: they take no less memory.
    """

    def __init__(self, model: PreTrainedModel, between: DecodeOps | None = None) -> None:
        """Stacks the linears that read the same input, in place. between: None for the best there is."""
        self.kv_bits: int | None = None
        self._model = _Model(model, between)
        self._steps: WeakKeyDictionary[PreallocatedCache, _Step] = WeakKeyDictionary()

    @torch.inference_mode()
    def hidden(self, token: int, cache: PreallocatedCache) -> Tensor:
        """The last hidden state, (hidden,) of the model's dtype, after one more token; the cache, which holds some,
        grows by it. Raises CacheFullError.
        """
        position = cache.next_position()
        if cache not in self._steps:
            self._steps[cache] = _Step(self._model, cache)
        hidden = self._steps[cache].run(token, position)
        for layer in cache.layers:
            layer.length += 1
        return hidden


def is_steady(model: PreTrainedModel) -> bool:
    """Whether the rotary embedding of a position is always the same; others look at the position on the host."""
    rope = str(model.base_model.rotary_emb.rope_type)
    return not any(unsteady in rope for unsteady in _UNSTEADY_ROPE)


def bucket_of(filled: int, capacity: int) -> int:
    """How many positions attention reads when so many are filled: whole buckets.

    Multiples of `BUCKET` and not powers of two: beside weights of 2 bits it counts what is read in vain. Their number
    does not matter, since a text only grows and so needs the graph of its last bucket only.
    """
    return min(-(-filled // BUCKET) * BUCKET, capacity)


class _Step:
    """The decode step on the buffers of one cache."""

    def __init__(self, model: "_Model", cache: PreallocatedCache) -> None:
        self._model, self._capacity = model, cache.capacity
        self._kept = [_Kept(layer.keys[0], layer.values[0], layer.window) for layer in cache.layers]
        self._token, self._position = (torch.zeros(1, dtype=torch.int64, device=model.device) for _ in range(2))
        self._out = torch.empty(model.width, dtype=model.dtype, device=model.device)
        self._next, self._bucket = 0, 0
        self._replay: Callable[[], None] | None = None

    def run(self, token: int, position: int) -> Tensor:
        """The last hidden state, (hidden,), after `token` at `position`."""
        self._token.fill_(token)
        self._position.fill_(position)
        if position != self._next:  # others than this step wrote before it: the modules, which round what they read
            self._model.round_kept(self._kept, position)
        self._next = position + 1
        bucket = bucket_of(position + 1, self._capacity)
        if self._replay is not None and bucket == self._bucket:
            self._replay()
        else:
            self._replay = None  # gives its memory back
            step = partial(self._compute, bucket)
            step()
            self._replay, self._bucket = _recorded(step, self._out.device) if self._out.is_cuda else step, bucket
        return self._out.clone()

    def _compute(self, bucket: int) -> None:
        self._out.copy_(self._model.hidden(self._token, self._position, self._kept, bucket))


def _recorded(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A CUDA graph of a step that has run before, in these shapes: all is compiled, loaded and timed by then."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()  # while other threads may use the GPU
    replay: Callable[[], None] = graph.replay
    return replay


@dataclass(frozen=True)
class _Kept:
    """Keys and values of one block, (kv_heads, capacity, d); window: positions that a token sees, None for all."""

    keys: Tensor
    values: Tensor
    window: int | None


class _Model:
    """The parts of a model that a step calls. The rotary embedding is its own module."""

    def __init__(self, model: PreTrainedModel, between: DecodeOps | None) -> None:
        self._embedding, self._rotary = model.get_input_embeddings(), model.base_model.rotary_emb
        self._norm = model.base_model.norm
        self.device, self.dtype, self.width = model.device, self._norm.weight.dtype, model.config.hidden_size
        first: Any = blocks_of(model)[0]
        self._between = between or decode_ops_for(model.device, first.self_attn.head_dim)
        self._blocks = [_Block(block, self._between) for block in blocks_of(model)]

    def hidden(self, token: Tensor, position: Tensor, kept: list[_Kept], bucket: int) -> Tensor:
        """The last hidden state, (hidden,), of a token (1,) at a position (1,) below `bucket`; `kept` receives its keys
        and values.
        """
        x, added = self._embedding(token), None
        at = self._place(x, position, bucket)
        for block, own in zip(self._blocks, kept, strict=True):
            added = block.run(x, added, own, at)
        return self._between.materialize(_normed(x, added, self._norm))[0]

    def round_kept(self, kept: list[_Kept], filled: int) -> None:
        """Round the keys and values of the first positions where the cache is quantized. Twice is as good as once."""
        for block, own in zip(self._blocks, kept, strict=True):
            for values in (own.keys[:, :filled], own.values[:, :filled]):
                values.copy_(rounded(values, block.kv_bits))

    def _place(self, x: Tensor, position: Tensor, bucket: int) -> DecodePosition:
        cos, sin = (part[0, 0] for part in self._rotary(x, position[None]))
        half = len(sin) // 2
        turned = torch.cat([-sin[:half], sin[half:]])  # so that halves that change places need no change of sign
        return DecodePosition(position, cos, turned, bucket)


class _Block:
    """One block: attention and MLP of one token."""

    def __init__(self, block: Any, between: DecodeOps) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._between = between
        self._before, self._after = block.input_layernorm, block.post_attention_layernorm
        self._qkv = stack_linears([attention.q_proj, attention.k_proj, attention.v_proj])
        self._gate_up = stack_linears([mlp.gate_proj, mlp.up_proj])
        self._out, self._down = attention.o_proj, mlp.down_proj
        self._head_dim, self._scale = attention.head_dim, float(attention.scaling)
        self.kv_bits: int | None = getattr(attention, "kv_bits", None)

    def run(self, x: Tensor, added: Tensor | None, kept: _Kept, at: DecodePosition) -> Tensor:
        """x (1, hidden) gets `added`, what the block before computed, and attention; returns what the MLP adds."""
        parts = self._between.products(self._qkv, _normed(x, added, self._before)).view(-1, self._head_dim)
        heads = AttentionInput(parts, kept.keys, kept.values, kept.window, self.kv_bits, self._scale)
        seen = self._between.products([self._out], self._between.attention(heads, at).view(1, -1))
        gate_up = self._between.products(self._gate_up, _normed(x, seen, self._after))
        return self._between.products([self._down], Gated(gate_up))


def _normed(x: Tensor, added: Tensor | None, norm: Any) -> Normed:
    return Normed(x, added, norm.weight, norm.variance_epsilon)
