"""Decode one token of a packed model on the CPU by a token program, without torch.

`decoder.py` decides which models use it, and `decode_profile.py` times its operations.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from abq_core.inference.block_parts import BlockParts, ModelParts
from abq_core.inference.graph_decoder import has_fixed_rope
from abq_core.inference.kv_cache import PreallocatedCache, PreallocatedLayer
from abq_core.inference.linear_stacks import stack_linears
from kernels.dispatch import look_up
from kernels.formats.weight import PackedWeight
from kernels.token_program import (
    ADDED,
    ATTENDED,
    COS,
    GATE_UP,
    GATED,
    NORMED,
    QKV,
    SIN,
    Memory,
    Operation,
    Program,
    X,
    buffer_sizes,
)

_Floats = NDArray[np.float32]

_Run = Callable[[Memory, int], None]
ChangeOperation = Callable[[str, Callable[..., Any]], Callable[..., Any]]
LINEARS, ATTENTION, NORMS, EMBEDDING = "linears", "attention", "norms and gates", "embedding"


class CpuDecoder:
    """A `Decoder` for packed weights in memory. A quantized KV cache is stored as integers."""

    def __init__(self, model: PreTrainedModel, parts: ModelParts) -> None:
        """Stack the weights that read the same input, in place. parts: `parts_of(model)`."""
        first: Any = parts.blocks[0].attention
        self.kv_bits: int | None = first.kv_bits
        entrance = _Entrance(model)
        self._width = model.config.hidden_size
        self._operations = list(_model_operations(parts, entrance, self._width))
        operations = [operation for _, operation in self._operations]
        self._sizes = buffer_sizes(operations)
        self._runs: list[_Run] = [Program(operations).run]
        self._enter = entrance.enter
        self._memories: WeakKeyDictionary[PreallocatedCache, Memory] = WeakKeyDictionary()

    def with_operations(self, change: ChangeOperation) -> "CpuDecoder":
        """A decoder with the same weights, whose operations are `change(kind, operation)`, each called on its own.

        kind: LINEARS, ATTENTION, NORMS or EMBEDDING.
        """
        changed = copy.copy(self)
        changed._enter = change(EMBEDDING, self._enter)
        changed._alone = [(kind, change(kind, run)) for kind, run in self._alone]
        changed._runs = [run for _, run in changed._alone]
        return changed

    @cached_property
    def _alone(self) -> list[tuple[str, _Run]]:
        """Each operation as a program of its own, with its kind."""
        return [(kind, Program([operation]).run) for kind, operation in self._operations]

    @torch.inference_mode()
    def hidden(self, token: int, cache: PreallocatedCache) -> Tensor:
        """Append one token to a non-empty cache. Returns the last hidden state, (hidden,) float32.

        Raises CacheFullError, NotFiniteError.
        """
        position = cache.next_position()
        if (memory := self._memories.get(cache)) is None:
            memory = self._memories[cache] = Memory(self._sizes, np.stack([layer.row() for layer in _layers(cache)]))
        self._enter(token, position, cache.capacity, memory)
        for run in self._runs:
            run(memory, position)
        for layer in _layers(cache):
            layer.length += 1
        return torch.from_numpy(memory.values[NORMED][: self._width].copy())  # the buffer has whole columns


def _layers(cache: PreallocatedCache) -> Iterator[PreallocatedLayer]:
    return (layer for layer in cache.layers if isinstance(layer, PreallocatedLayer))


class _Entrance:
    """What enters the first block: the embedding of a token, and the rotary embeddings of its position.

    ropes: types of layer that have a rotary embedding of their own.  rotated: channels of a head that are rotated.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        base: Any = model.base_model
        self._embedding = model.get_input_embeddings()
        self._rotary = getattr(base, "rotary_emb", None)
        self._positions = base.decoder.embed_positions if self._rotary is None else None
        self.ropes: Sequence[str | None] = getattr(self._rotary, "layer_types", None) or [None]
        packed = getattr(self._embedding, "packed", None)
        self._packed = packed if isinstance(packed, PackedWeight) and self._embedding.is_plain else None
        self._is_fixed = self._rotary is None or has_fixed_rope(model)
        self._rows = self._rotary_rows(0, 1)
        self.rotated = self._rows[0].shape[1] // len(self.ropes)

    def rope_of(self, attention: Any) -> int:
        """The number of the rotary embedding of an attention module."""
        return 0 if len(self.ropes) == 1 else self.ropes.index(attention.layer_type)

    def enter(self, token: int, position: int, capacity: int, memory: Memory) -> None:
        """Fill the buffers X, COS and SIN. capacity: the number of positions in the cache."""
        memory.values[X][:] = self._embedded(token, position)
        rows, row = self._rows, position
        if not self._is_fixed:
            rows, row = self._rotary_rows(position, position + 1), 0
        elif position >= len(rows[0]):
            rows = self._rows = self._rotary_rows(0, capacity)
        memory.values[COS][:], memory.values[SIN][:] = rows[0][row], rows[1][row]

    def _embedded(self, token: int, position: int) -> _Floats:
        if self._packed is not None:
            embedded = look_up(self._packed, np.array([token]))[0]
        else:
            embedded = self._embedding(torch.tensor([token]))[0].numpy()
        if self._positions is None:
            return embedded
        learned: Tensor = self._positions(torch.empty(0), position_ids=torch.tensor([position]))[0]
        return embedded + learned.numpy()

    @torch.inference_mode()
    def _rotary_rows(self, first: int, last: int) -> tuple[_Floats, _Floats]:
        """cos and sin of positions first .. last - 1, (positions, ropes * rotated) each."""
        if self._rotary is None:
            return (np.empty((last - first, 0), np.float32),) * 2
        x, positions = torch.empty(0), torch.arange(first, last)[None]  # only the type of x is read
        found = [self._rotary(x, positions, *([] if rope is None else [rope])) for rope in self.ropes]
        cos, sin = (torch.cat(parts, dim=-1)[0].numpy() for parts in zip(*found, strict=True))
        return cos, sin


def _model_operations(parts: ModelParts, entrance: _Entrance, width: int) -> Iterator[tuple[str, Operation]]:
    """The operations of all blocks and of the final norm, with their kinds."""
    has_added = False
    for index, block in enumerate(parts.blocks):
        offset = parts.gain_offset
        yield NORMS, _norm(block.norm, offset, has_added=has_added)
        yield from _products(block.qkv, NORMED, QKV)
        yield from _attend(index, block, entrance, offset)
        yield from _products([block.out], ATTENDED, ADDED)
        if block.after_attention is not None:
            yield NORMS, _norm(block.after_attention, offset, in_place=ADDED)
        if block.mlp_norm is not None:
            yield NORMS, _norm(block.mlp_norm, offset, has_added=not block.parallel)
        if block.parallel:
            yield NORMS, Operation.add(width)
        yield from _products(block.up, NORMED, GATE_UP)
        yield NORMS, Operation.gate(block.down.in_features, parts.activation, block.gated)
        yield from _products([block.down], GATED, ADDED)
        if block.after_mlp is not None:
            yield NORMS, _norm(block.after_mlp, offset, in_place=ADDED)
        has_added = True
    yield NORMS, _norm(parts.final_norm, parts.gain_offset, has_added=True)


def _attend(index: int, block: BlockParts, entrance: _Entrance, offset: float) -> Iterator[tuple[str, Operation]]:
    attention: Any = block.attention
    heads = attention.config.num_attention_heads
    kv_heads = getattr(attention.config, "num_key_value_heads", None) or heads
    d = block.out.in_features // heads
    if block.by_head:
        yield ATTENTION, Operation.regroup(heads, kv_heads, d)
    if block.head_norms is not None:
        for norm, first, count in zip(block.head_norms, (0, heads), (heads, kv_heads), strict=True):
            weight, bias, epsilon = _norm_values(norm, offset)
            yield NORMS, Operation.norm_heads(weight, epsilon, bias, first, count)
    rope, rotated = entrance.rope_of(attention), entrance.rotated
    scaling = float(attention.scaling)
    yield ATTENTION, Operation.attend(index, heads, kv_heads, d, scaling, rotated, rope, block.softcap)


def _norm(norm: Any, offset: float, has_added: bool = False, in_place: int | None = None) -> Operation:
    weight, bias, epsilon = _norm_values(norm, offset)
    return Operation.norm(weight, epsilon, has_added, bias, in_place)


def _norm_values(norm: Any, offset: float) -> tuple[_Floats, _Floats | None, float]:
    """Weight, bias and epsilon of a norm; the bias is None for an RMS norm."""
    if isinstance(norm, nn.LayerNorm):
        weight = torch.ones(norm.normalized_shape) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros(norm.normalized_shape) if norm.bias is None else norm.bias.detach()
        return weight.numpy(), bias.numpy(), norm.eps
    epsilon = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    weight = norm.weight.detach() + offset if offset else norm.weight.detach()
    return weight.numpy(), None, float(epsilon)


def _products(linears: Sequence[Any], source: int, target: int) -> Iterator[tuple[str, Operation]]:
    """Linears with a common input, multiplied at once if their settings agree; their outputs follow one another."""
    start = 0
    for linear in stack_linears(linears):
        assert isinstance(linear.packed, PackedWeight)
        yield LINEARS, Operation.product(linear.packed, linear.act_bits, source, target, start)
        start += linear.out_features
