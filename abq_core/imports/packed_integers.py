"""Unsigned integers of 1 to 8 bits, packed densely into 32-bit words, the lowest bits first."""

import numpy as np
import torch
from torch import Tensor

WORD = 32
_VALUES_AT_ONCE = 1 << 22  # unpacked together: a few times 8 bytes of memory for each


def words_for(count: int, bits: int) -> int:
    """The number of words that hold `count` integers."""
    return -(-count * bits // WORD)


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Unpack words (rows, n) int32 into (rows, count) int16, each 0..2^bits - 1.

    Value i starts at bit i * bits of its row and may continue in the next word, as in compressed-tensors and GPTQ.
    """
    starts = np.arange(count, dtype=np.int64) * bits
    at, shift = starts // WORD, (starts % WORD).astype(np.uint64)
    raw = words.contiguous().numpy().view(np.uint32)
    rows = max(1, _VALUES_AT_ONCE // max(count, 1))
    unpacked = np.empty((len(raw), count), np.int16)
    for first in range(0, len(raw), rows):
        part = np.pad(raw[first : first + rows], ((0, 0), (0, 1))).astype(np.uint64)
        pairs = part[:, at] | (part[:, at + 1] << np.uint64(WORD))
        unpacked[first : first + rows] = (pairs >> shift) & np.uint64((1 << bits) - 1)
    return torch.from_numpy(unpacked)
