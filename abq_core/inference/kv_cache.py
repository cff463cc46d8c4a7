"""A KV cache of fixed capacity: written in place; attention reads only filled positions.

It extends transformers' cache classes by their public methods (transformers 5). transformers' own `StaticCache` does
not fit here: it passes the whole capacity to attention, and cannot hold quantized keys and values.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from kernels.kv_codes import KvCodes
from kernels.token_program import float_layer


class CacheFullError(RuntimeError):
    """The cache already holds as many tokens as its capacity."""


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one layer, (batch, kv_heads, capacity, d), filled up to `length`.

    window: size of the sliding window, the token itself included; None for full attention.
    bits: store keys and values as integers of this many bits (batch 1, CPU). Then `update` accepts only the first
    tokens; later ones come through a token program.
    """

    is_compileable = False
    keys: Tensor
    values: Tensor
    codes: KvCodes

    def __init__(self, capacity: int, window: int | None = None, bits: int | None = None) -> None:
        super().__init__()
        self.capacity, self.window, self.bits, self.length = capacity, window, bits, 0
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers with the batch size, heads and dtype of the first keys and values."""
        batch, heads, _, d = key_states.shape
        if self.bits is not None:
            self.codes = KvCodes(heads, self.capacity, d, self.bits)
        else:
            self.keys = key_states.new_zeros((batch, heads, self.capacity, d))
            self.values = value_states.new_zeros((batch, heads, self.capacity, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (batch, kv_heads, tokens, d). Returns views of the visible ones."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._first_visible, self.length + key_states.shape[2]
        if self.bits is not None:
            assert self.length == 0
            self.codes.write(0, key_states[0].numpy(), value_states[0].numpy())
            self.length = end
            return key_states, value_states
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, start:end], self.values[:, :, start:end]

    def row(self) -> NDArray[np.int64]:
        """This layer, once initialized, in a token program's table of layers. CPU, batch 1."""
        if self.bits is not None:
            return self.codes.row(self.window)
        return float_layer(self.keys[0].numpy(), self.values[0].numpy(), self.window)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values; 0 before the first token."""
        if not self.is_initialized:
            return 0
        return self.codes.nbytes if self.bits is not None else self.keys.nbytes + self.values.nbytes

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(number of positions that `query_length` more tokens see together, the first of them)."""
        start = self._first_visible
        return self.length + query_length - start, start

    def get_seq_length(self) -> int:
        """Number of filled positions."""
        return self.length

    def get_max_length(self) -> int:
        """The capacity."""
        return self.capacity

    def reset(self) -> None:
        """Empty the layer; the buffers stay allocated."""
        self.length = 0

    @property
    def _first_visible(self) -> int:
        """The first position that the next token sees."""
        return 0 if self.window is None else max(0, self.length - self.window + 1)


class PreallocatedCache(DynamicCache):
    """A KV cache for at most `capacity` tokens of a model with this config.

    bits: of keys and values in memory, for a model whose later tokens come through a `Decoder`; None for floats.
    Layers other than full and sliding-window attention stay transformers' own.
    """

    layers: list[CacheLayerMixin]

    def __init__(self, config: Any, capacity: int, bits: int | None = None) -> None:
        super().__init__(config=config)
        self.capacity = capacity
        self.layers = [_preallocated(layer, capacity, bits) for layer in self.layers]

    def next_position(self) -> int:
        """The position of the next token. Raises CacheFullError."""
        position: int = self.get_seq_length()
        if position >= self.capacity:
            raise CacheFullError(f"The KV cache is full: its capacity is {self.capacity} tokens. Make a larger one.")
        return position

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, filled or not."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, PreallocatedLayer))


def _preallocated(layer: CacheLayerMixin, capacity: int, bits: int | None) -> CacheLayerMixin:
    if type(layer) is DynamicLayer:
        return PreallocatedLayer(capacity, None, bits)
    if type(layer) is DynamicSlidingWindowLayer:
        return PreallocatedLayer(capacity, layer.sliding_window, bits)
    return layer
