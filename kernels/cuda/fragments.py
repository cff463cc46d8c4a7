"""A packed weight in fragment order, the order in which tensor-core lanes load it.

A row tile is 16 rows, a chunk 256 columns, a half chunk 128. Column 128 h + 16 r + 4 t + c of a chunk (r < 8, t < 4,
c < 4) is bit r + 8 c of word t of half h. Lane 4 g + t of a warp holds, for each plane, four words as 16 bytes: row g
of half 0, row g + 8 of half 0, row g of half 1, row g + 8 of half 1. That is the A operand of `mma.m16n8k256 .b1`; the
same bits, turned into bytes in registers, are the A operand of `mma.m16n8k32 .u8` in the natural order of the columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.formats.planes import ShapeError
from kernels.formats.weight import PackedWeight, most_columns

TILE_ROWS = 16
CHUNK = 256
HALF = 128
LANES = 32
_TILES_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class FragmentWeight:
    """A weight (n, k) of `planes` stored bits per value for the GPU. Made by `to_fragments`."""

    n: int
    k: int
    planes: int
    group_size: int | None
    segment: int  # columns that share a scale: k padded to 256, or a multiple of 32
    data: NDArray[np.uint32]  # (tiles, chunks, planes, 32, 4)
    scale: NDArray[np.float32]  # (groups, n padded to 16)
    zero: NDArray[np.int16]  # (groups, n padded)
    sums: NDArray[np.int32]  # (groups, n padded): sum of (spacing code - zero)
    bias: NDArray[np.float32] | None  # (n padded,)

    @property
    def groups(self) -> int:
        """Scales per row."""
        return len(self.scale)

    @property
    def nbytes(self) -> int:
        """Bytes that this weight occupies on the device."""
        bias = 0 if self.bias is None else self.bias.nbytes
        return self.data.nbytes + self.scale.nbytes + self.zero.nbytes + self.sums.nbytes + bias


def to_fragments(weight: PackedWeight) -> FragmentWeight:
    """Reorder a packed weight into fragments, zero-padded to 16 rows and 256 columns.

    A weight without groups gets one scale per row, unless an int32 total could overflow: then it is split into segments
    of a multiple of 256 columns.
    """
    n, k, planes = weight.n, weight.k, weight.planes
    padded_k = -(-k // CHUNK) * CHUNK
    segment = weight.segment if weight.group_size is not None else _whole_segment(padded_k, planes, weight.spacing)
    groups = -(-k // segment)
    source = np.arange(groups) * segment // weight.segment  # index of the CPU segment that holds the scale
    scale, zero = weight.scale[:, source], weight.zero[:, source]
    tiles = -(-n // TILE_ROWS)
    data = np.empty((tiles, padded_k // CHUNK, planes, LANES, 4), np.uint32)
    sums = np.zeros((groups, tiles * TILE_ROWS), np.int32)
    for tile in range(0, tiles, _TILES_AT_ONCE):
        start, stop = tile * TILE_ROWS, min((tile + _TILES_AT_ONCE) * TILE_ROWS, n)
        codes = weight.codes(start, stop)
        data[tile : tile + _TILES_AT_ONCE] = pack_fragments(codes, planes)
        starts = np.arange(0, k, segment)
        lengths = np.minimum(segment, k - starts)
        block = weight.spacing * np.add.reduceat(codes.astype(np.int64), starts, axis=1)
        sums[:, start:stop] = (block - zero[start:stop].astype(np.int64) * lengths).T
    return FragmentWeight(
        n=n,
        k=k,
        planes=planes,
        group_size=weight.group_size,
        segment=segment,
        data=data,
        scale=_padded_rows(scale.T, tiles),
        zero=_padded_rows(zero.T, tiles),
        sums=sums,
        bias=None if weight.bias is None else _padded_rows(weight.bias[None], tiles)[0],
    )


def pack_fragments(codes: NDArray[np.integer], planes: int) -> NDArray[np.uint32]:
    """Pack codes (n, k) of `planes` bits into fragments (tiles, chunks, planes, 32, 4) uint32."""
    n, k = codes.shape
    tiles, chunks = -(-n // TILE_ROWS), -(-k // CHUNK)
    padded = np.zeros((tiles * TILE_ROWS, chunks * CHUNK), np.uint16)
    padded[:n, :k] = codes
    # axes: tile, row half, g, chunk, column half, r, t, c -> tile, chunk, g, t, column half, row half, c, r
    order = padded.reshape(tiles, 2, 8, chunks, 2, 8, 4, 4).transpose(0, 3, 2, 6, 4, 1, 7, 5)
    out = np.empty((tiles, chunks, planes, LANES, 4), np.uint32)
    for j in range(planes):
        bits = ((order >> j) & 1).astype(np.uint8)
        octets = np.packbits(bits, axis=-1, bitorder="little")[..., 0]  # (tile, chunk, g, t, half, row half, c)
        words = np.ascontiguousarray(octets).view("<u4")[..., 0]
        out[:, :, j] = words.reshape(tiles, chunks, LANES, 4)
    return out


def unpack_fragments(data: NDArray[np.uint32], n: int, k: int) -> NDArray[np.uint16]:
    """Invert `pack_fragments`.

    Returns (n, k) uint16. Raises ShapeError if the fragments are smaller than n x k.
    """
    tiles, chunks, planes = data.shape[:3]
    if tiles * TILE_ROWS < n or chunks * CHUNK < k:
        raise ShapeError(f"fragments of shape {data.shape} do not hold a weight ({n}, {k})")
    octets = np.ascontiguousarray(data.astype("<u4", copy=False)).view(np.uint8)
    bits = np.unpackbits(octets.reshape(tiles, chunks, planes, 8, 4, 2, 2, 4, 1), axis=-1, bitorder="little")
    # axes: tile, chunk, plane, g, t, half, row half, c, r -> plane, tile, row half, g, chunk, half, r, t, c
    planar = bits.transpose(2, 0, 6, 3, 1, 5, 8, 4, 7).reshape(planes, tiles * TILE_ROWS, chunks * CHUNK)
    codes = np.zeros(planar.shape[1:], np.uint16)
    for j in range(planes):
        codes |= planar[j].astype(np.uint16) << j
    return codes[:n, :k]


def _whole_segment(padded_k: int, planes: int, spacing: int) -> int:
    limit = most_columns(planes, spacing)
    return padded_k if padded_k <= limit else limit // CHUNK * CHUNK


def _padded_rows(values: NDArray[Any], tiles: int) -> NDArray[Any]:
    out = np.zeros((len(values), tiles * TILE_ROWS), values.dtype)
    out[:, : values.shape[1]] = values
    return out
