"""Decode one token on a GPU as one CUDA graph, with 16-bit, INT8 or packed linears.

The step uses fixed buffers, its shapes do not depend on the position, and it never synchronizes, so it can be captured.
On the CPU the same step runs without a graph. `decoder.py` decides which models use it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from abq_core.inference.decode_ops import DecodeOps, DecodePosition, decode_ops_for, quantize_kv
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.linear_stacks import stack_linears
from abq_core.models.architectures import blocks_of
from kernels.gpu import AttentionInput, Gated, Normed

BUCKET = 256  # attention reads the cache in multiples of this many positions
_POSITION_DEPENDENT_ROPE = ("dynamic", "longrope")


class GraphDecoder:
    """A `Decoder` that captures its step as a CUDA graph and replays it.

    There is one capture per cache and bucket of positions.
    A quantized KV cache is fake-quantized as the modules do, and stored in floating point: it saves no memory.
    """

    def __init__(self, model: PreTrainedModel, ops: DecodeOps | None = None) -> None:
        """Stack the linears that read the same input, in place.

        ops: None for the best ones on the model's device.
        """
        self.kv_bits: int | None = None
        self._model = _Model(model, ops)
        self._steps: WeakKeyDictionary[PreallocatedCache, _Step] = WeakKeyDictionary()

    @torch.inference_mode()
    def hidden(self, token: int, cache: PreallocatedCache) -> Tensor:
        """Append one token to a cache that is not empty.

        Returns the last hidden state, (hidden,) of the model's dtype.
        Raises CacheFullError.
        """
        position = cache.next_position()
        if cache not in self._steps:
            self._steps[cache] = _Step(self._model, cache)
        hidden = self._steps[cache].run(token, position)
        for layer in cache.layers:
            layer.length += 1
        return hidden


def has_fixed_rope(model: PreTrainedModel) -> bool:
    """Whether the rotary embedding of a position never changes.

    Others read the position on the host.
    """
    rope = str(model.base_model.rotary_emb.rope_type)
    return not any(kind in rope for kind in _POSITION_DEPENDENT_ROPE)


def bucket_of(filled: int, capacity: int) -> int:
    """Number of positions that attention reads: `filled` rounded up to whole buckets.

    Multiples of `BUCKET` rather than powers of two, because reading unused positions costs measurable bandwidth next to
    2-bit weights. The number of buckets does not matter: a text only grows, so one graph is held at a time.
    """
    return min(-(-filled // BUCKET) * BUCKET, capacity)


class _LayerCache(NamedTuple):
    """Keys and values of one layer, (kv_heads, capacity, d).

    window: size of the sliding window, None for full.
    """

    keys: Tensor
    values: Tensor
    window: int | None


class _Step:
    """The decode step on the buffers of one cache."""

    def __init__(self, model: "_Model", cache: PreallocatedCache) -> None:
        self._model, self._capacity = model, cache.capacity
        self._layers = [_LayerCache(layer.keys[0], layer.values[0], layer.window) for layer in cache.layers]
        self._token, self._position = (torch.zeros(1, dtype=torch.int64, device=model.device) for _ in range(2))
        self._out = torch.empty(model.width, dtype=model.dtype, device=model.device)
        self._next_position, self._bucket = 0, 0
        self._replay: Callable[[], None] | None = None

    def run(self, token: int, position: int) -> Tensor:
        """The last hidden state, (hidden,), after `token` at `position`."""
        self._token.fill_(token)
        self._position.fill_(position)
        if position != self._next_position:  # the modules filled the cache; they quantize what they read, not the cache
            self._model.quantize_cached(self._layers, position)
        self._next_position = position + 1
        bucket = bucket_of(position + 1, self._capacity)
        if self._replay is not None and bucket == self._bucket:
            self._replay()
        else:
            self._replay = None  # frees the graph's memory
            step = partial(self._compute, bucket)
            step()
            self._replay, self._bucket = _captured(step, self._out.device) if self._out.is_cuda else step, bucket
        return self._out.clone()

    def _compute(self, bucket: int) -> None:
        self._out.copy_(self._model.hidden(self._token, self._position, self._layers, bucket))


def _captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A CUDA graph of a step that already ran with these shapes.

    The first run compiles, loads and tunes its kernels, which graph capture forbids.
    """
    graph = torch.cuda.CUDAGraph()
    # "thread_local": other threads may use the GPU meanwhile
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


class _Model:
    """The parts of a model that a step calls. The rotary embedding is the model's own module."""

    def __init__(self, model: PreTrainedModel, ops: DecodeOps | None) -> None:
        self._embedding, self._rotary = model.get_input_embeddings(), model.base_model.rotary_emb
        self._norm = model.base_model.norm
        self.device, self.dtype, self.width = model.device, self._norm.weight.dtype, model.config.hidden_size
        first: Any = blocks_of(model)[0]
        self._ops = ops or decode_ops_for(model.device, first.self_attn.head_dim)
        self._blocks = [_Block(block, self._ops) for block in blocks_of(model)]

    def hidden(self, token: Tensor, position: Tensor, layers: list[_LayerCache], bucket: int) -> Tensor:
        """The last hidden state, (hidden,), of a token (1,) at a position (1,). Updates the cache."""
        x, added = self._embedding(token), None
        at = self._decode_position(x, position, bucket)
        for block, layer in zip(self._blocks, layers, strict=True):
            added = block.run(x, added, layer, at)
        return self._ops.materialize(_normed(x, added, self._norm))[0]

    def quantize_cached(self, layers: list[_LayerCache], filled: int) -> None:
        """Fake-quantize the first `filled` positions of every quantized layer (idempotent)."""
        for block, layer in zip(self._blocks, layers, strict=True):
            for values in (layer.keys[:, :filled], layer.values[:, :filled]):
                values.copy_(quantize_kv(values, block.kv_bits))

    def _decode_position(self, x: Tensor, position: Tensor, bucket: int) -> DecodePosition:
        cos, sin = (part[0, 0] for part in self._rotary(x, position[None]))
        half = len(sin) // 2
        signed_sin = torch.cat([-sin[:half], sin[half:]])  # so that swapping halves needs no sign change
        return DecodePosition(position, cos, signed_sin, bucket)


class _Block:
    """One block: attention and MLP of one token."""

    def __init__(self, block: Any, ops: DecodeOps) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._ops = ops
        self._attention_norm, self._mlp_norm = block.input_layernorm, block.post_attention_layernorm
        self._qkv = stack_linears([attention.q_proj, attention.k_proj, attention.v_proj])
        self._gate_up = stack_linears([mlp.gate_proj, mlp.up_proj])
        self._out, self._down = attention.o_proj, mlp.down_proj
        self._head_dim, self._scale = attention.head_dim, float(attention.scaling)
        self.kv_bits: int | None = getattr(attention, "kv_bits", None)

    def run(self, x: Tensor, added: Tensor | None, layer: _LayerCache, at: DecodePosition) -> Tensor:
        """Add `added` and attention to the residual x (1, hidden), in place. Returns the MLP output.

        added: the previous block's MLP output, None for the first block.
        """
        qkv = self._ops.linears(self._qkv, _normed(x, added, self._attention_norm)).view(-1, self._head_dim)
        token = AttentionInput(qkv, layer.keys, layer.values, layer.window, self.kv_bits, self._scale)
        attended = self._ops.linears([self._out], self._ops.attention(token, at).view(1, -1))
        gate_up = self._ops.linears(self._gate_up, _normed(x, attended, self._mlp_norm))
        return self._ops.linears([self._down], Gated(gate_up))


def _normed(x: Tensor, added: Tensor | None, norm: Any) -> Normed:
    return Normed(x, added, norm.weight, norm.variance_epsilon)
