"""Bit planes in the simplest layout: bit j of 64 consecutive values in one word.

The CPU engine uses its own layout (`kernels.formats.weight`); this one is for files, tests and other tools.
"""

import numpy as np
from numpy.typing import NDArray

WORD = 64


class ShapeError(ValueError):
    """An array's shape, type or range does not fit the operation."""


def pack_bit_planes(q: NDArray[np.integer], bits: int) -> NDArray[np.uint64]:
    """Split unsigned integers into bit planes, 64 values per word.

    q: (rows, k) integers, every value in 0 .. 2**bits - 1, k % 64 == 0.  Returns (rows, bits, k // 64) uint64; column c
    is bit c % 64 of word c // 64.  Raises ShapeError if k is not a multiple of 64 (pad the weight first) or a value
    needs more bits.  The paper's BMMA decomposition: q = sum over j of 2^j plane_j.
    """
    if q.ndim != 2 or q.shape[1] % WORD:
        raise ShapeError(f"expected (rows, k) with k a multiple of {WORD}, got {q.shape}; pad the columns with zeros")
    if q.size and (int(q.min()) < 0 or int(q.max()) >= 1 << bits):
        raise ShapeError(f"values {int(q.min())}..{int(q.max())} do not fit {bits} bits (0..{(1 << bits) - 1})")
    rows, k = q.shape
    bit = (q.astype(np.uint16)[:, None, :] >> np.arange(bits, dtype=np.uint16)[:, None]) & 1
    packed = np.packbits(bit.astype(np.uint8), axis=-1, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False).reshape(rows, bits, k // WORD)


def unpack_bit_planes(planes: NDArray[np.uint64], k: int) -> NDArray[np.unsignedinteger]:
    """Invert `pack_bit_planes`: planes (rows, bits, words) uint64 -> (rows, k).

    Returns uint8, or uint16 if bits > 8.
    Raises ShapeError if the planes have fewer than k columns.
    """
    if planes.ndim != 3 or planes.shape[2] * WORD < k:
        raise ShapeError(f"planes of shape {planes.shape} do not have {k} columns ({WORD} per word)")
    rows, bits, words = planes.shape
    octets = np.ascontiguousarray(planes.astype("<u8", copy=False)).view(np.uint8).reshape(rows, bits, words * 8)
    bit = np.unpackbits(octets, axis=-1, bitorder="little")[:, :, :k]
    weights = (1 << np.arange(bits, dtype=np.uint16))[:, None]
    return (bit * weights).sum(axis=1, dtype=np.uint16).astype(np.uint8 if bits <= 8 else np.uint16)
