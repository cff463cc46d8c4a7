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
from torch import Tensor
from transformers import PreTrainedModel

from abq_core.inference.graph_decoder import has_fixed_rope
from abq_core.inference.kv_cache import PreallocatedCache, PreallocatedLayer
from abq_core.inference.linear_stacks import stack_linears
from abq_core.models.architectures import blocks_of
from abq_core.quantization.quant_linear import PackedLinear
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

    def __init__(self, model: PreTrainedModel) -> None:
        """Stack the weights that read the same input, in place."""
        blocks: Any = blocks_of(model)
        self._operations = [pair for index, block in enumerate(blocks) for pair in _block_operations(index, block)]
        self._operations.append((NORMS, _norm(model.base_model.norm, has_added=True)))
        self.kv_bits: int | None = blocks[0].self_attn.kv_bits
        operations = [operation for _, operation in self._operations]
        self._sizes, self._width = buffer_sizes(operations), model.base_model.norm.weight.numel()
        self._runs: list[_Run] = [Program(operations).run]
        self._enter = _Entrance(model).enter
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
    """What enters the first block: the embedding of a token, and the rotary embedding of its position."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._embedding, self._rotary = model.get_input_embeddings(), model.base_model.rotary_emb
        self._packed = getattr(self._embedding, "packed", None)
        self._is_fixed = has_fixed_rope(model)
        self._rows: tuple[_Floats, _Floats] = (np.empty((0, 0), np.float32),) * 2

    def enter(self, token: int, position: int, capacity: int, memory: Memory) -> None:
        """Fill the buffers X, COS and SIN. capacity: the number of positions in the cache."""
        memory.values[X][:] = self._embedded(token)
        rows, row = self._rows, position
        if not self._is_fixed:
            rows, row = self._rotary_rows(position, position + 1), 0
        elif position >= len(rows[0]):
            rows = self._rows = self._rotary_rows(0, capacity)
        memory.values[COS][:], memory.values[SIN][:] = rows[0][row], rows[1][row]

    def _embedded(self, token: int) -> _Floats:
        if isinstance(self._packed, PackedWeight):
            return look_up(self._packed, np.array([token]))[0]
        embedded: Tensor = self._embedding(torch.tensor([token]))[0]
        return embedded.numpy()

    def _rotary_rows(self, first: int, last: int) -> tuple[_Floats, _Floats]:
        """cos and sin of positions first .. last - 1, (positions, d) each."""
        cos, sin = self._rotary(torch.empty(0), torch.arange(first, last)[None])  # only the tensor's type is read
        return cos[0].numpy(), sin[0].numpy()


def _block_operations(index: int, block: Any) -> Iterator[tuple[str, Operation]]:
    """The operations of one block, with their kinds."""
    attention, mlp = block.self_attn, block.mlp
    d = attention.head_dim
    heads, kv_heads = attention.q_proj.out_features // d, attention.k_proj.out_features // d
    yield NORMS, _norm(block.input_layernorm, has_added=index > 0)
    yield from _products([attention.q_proj, attention.k_proj, attention.v_proj], NORMED, QKV)
    yield ATTENTION, Operation.attend(index, heads, kv_heads, d, float(attention.scaling))
    yield from _products([attention.o_proj], ATTENDED, ADDED)
    yield NORMS, _norm(block.post_attention_layernorm, has_added=True)
    yield from _products([mlp.gate_proj, mlp.up_proj], NORMED, GATE_UP)
    yield NORMS, Operation.gate(mlp.up_proj.out_features)
    yield from _products([mlp.down_proj], GATED, ADDED)


def _norm(norm: Any, has_added: bool) -> Operation:
    return Operation.norm(norm.weight.detach().numpy(), float(norm.variance_epsilon), has_added)


def _products(linears: Sequence[PackedLinear], source: int, target: int) -> Iterator[tuple[str, Operation]]:
    """Linears with a common input, multiplied at once if their settings agree; their outputs follow one another."""
    start = 0
    for linear in stack_linears(linears):
        assert isinstance(linear.packed, PackedWeight)
        yield LINEARS, Operation.product(linear.packed, linear.act_bits, source, target, start)
        start += linear.out_features
