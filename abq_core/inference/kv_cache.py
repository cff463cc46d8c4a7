"""A KV cache of fixed size: keys and values are written in place, and attention reads only what is filled."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from kernels.decode_ops import attend
from kernels.kv_codes import KvCodes


class CacheFullError(RuntimeError):
    """A cache that holds as many tokens as it was made for."""


class PreallocatedLayer(CacheLayerMixin):
    """Keys and values of one block, (batch, kv_heads, capacity, d), of the first `length` positions.

    window: positions that a token sees, itself included; None for all.  bits: K and V are kept as integers (batch 1),
    for `append` and `attend` alone: only the first tokens can come by `update`.
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
        """Allocate, with the batch, heads and dtype of the first keys and values."""
        batch, heads, _, d = key_states.shape
        if self.bits is not None:
            self.codes = KvCodes(heads, self.capacity, d, self.bits)
        else:
            self.keys = key_states.new_zeros((batch, heads, self.capacity, d))
            self.values = value_states.new_zeros((batch, heads, self.capacity, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write (batch, kv_heads, tokens, d) behind what is there. Returns all that these tokens may see, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._first_seen, self.length + key_states.shape[2]
        if self.bits is not None:
            assert self.length == 0
            self.codes.write(0, key_states[0].numpy(), value_states[0].numpy())
            self.length = end
            return key_states, value_states
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, start:end], self.values[:, :, start:end]

    def append(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """One more token: keys and values (kv_heads, d). CPU, batch 1, not the first."""
        if self.bits is not None:
            self.codes.write(self.length, keys[:, None], values[:, None])
        else:
            held_keys, held_values = self._arrays
            held_keys[:, self.length], held_values[:, self.length] = keys, values
        self.length += 1

    def attend(self, query: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
        """Attention of the last token, query (heads, d), over what it sees: (1, heads * d) float32. CPU, batch 1."""
        first = 0 if self.window is None else max(0, self.length - self.window)
        if self.bits is not None:
            return self.codes.attend(query, first, self.length, scale)
        return attend(query, *self._arrays, first, self.length, scale)

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Keys and values of batch 1 as NumPy sees them, in the same memory."""
        return self.keys[0].numpy(), self.values[0].numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values; 0 before the first token."""
        if not self.is_initialized:
            return 0
        return self.codes.nbytes if self.bits is not None else self.keys.nbytes + self.values.nbytes

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many positions `query_length` more tokens will see, and the first of them."""
        start = self._first_seen
        return self.length + query_length - start, start

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def reset(self) -> None:
        self.length = 0

    @property
    def _first_seen(self) -> int:
        """The first position that the next token sees."""
        return 0 if self.window is None else max(0, self.length - self.window + 1)


class PreallocatedCache(DynamicCache):
    """A cache for at most `capacity` tokens of a model with this config.

    bits: of K and V in memory, for a model whose tokens after the first call come by a `Decoder`.  Layers that are
    neither full nor sliding attention stay transformers' own.
    """

    layers: list[CacheLayerMixin]

    def __init__(self, config: Any, capacity: int, bits: int | None = None) -> None:
        super().__init__(config=config)
        self.capacity = capacity
        self.layers = [_static(layer, capacity, bits) for layer in self.layers]

    def next_position(self) -> int:
        """Where the next token goes. Raises CacheFullError."""
        position: int = self.get_seq_length()
        if position >= self.capacity:
            raise CacheFullError(f"The cache was made for {self.capacity} tokens and is full: make a larger one.")
        return position

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values hold, whether filled or not."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, PreallocatedLayer))


def _static(layer: CacheLayerMixin, capacity: int, bits: int | None) -> CacheLayerMixin:
    if type(layer) is DynamicLayer:
        return PreallocatedLayer(capacity, None, bits)
    if type(layer) is DynamicSlidingWindowLayer:
        return PreallocatedLayer(capacity, layer.sliding_window, bits)
    return layer
