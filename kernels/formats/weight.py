"""Packed weights: fields of 8, 4, 2 or 1 bits in panels of 16 rows.

A code of b bits is split into fields, low bits first: powers of two for the byte dot product (3 = 2 + 1, 6 = 4 + 2),
single bits for the bit-serial product. A field of width f is a row of 32-bit words, each of four bytes with 8 / f
positions: position j of byte c in word w holds column (w * 8 / f + j) * 4 + c. A word masked to one position is thus
multiplied by four consecutive activations, whatever the width. The packed size is exactly b bits per weight, with rows
padded to 16 and columns to 32. Sixteen rows are interleaved, one per vector lane, so no product sums across lanes.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.formats.hadamard_block import is_block_of
from kernels.formats.planes import ShapeError

PANEL_ROWS = 16
COLUMN_STEP = 32
MAX_PLANES = 9
MAX_LEVEL = 1 << 14  # spacing times levels; zero points are int16
FIELD_WIDTHS = (8, 4, 2, 1)
_SUMMED_ROWS = 256


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight (n, k) of `planes` bits per value, w = (spacing * code - zero) * scale.

    Built by `pack_weight`.
    """

    n: int
    k: int
    planes: int
    group_size: int | None
    segment: int  # columns per stored scale: group_size, or all (fewer if an int32 total could overflow)
    widths: NDArray[np.int64]  # bits of each field, low bits first
    data: NDArray[np.uint32]  # flat (panels, planes * k_padded / 32, 16)
    panel_scale: NDArray[np.float32]  # flat (groups, n_padded)
    panel_zero: NDArray[np.int16]  # flat (groups, n_padded)
    panel_sum: NDArray[np.int32]  # flat (groups, n_padded): sum of spacing code - zero, the paper's sum(q_w) - K z_w
    bias: NDArray[np.float32] | None
    spacing: int = 1  # distance of adjacent levels in scales: 2 if zero points may lie halfway between two
    act_clip: float = 1.0  # factor on each input token's range (`kernels.formats.activations`)
    hadamard: int = 1  # block size of the transform applied to each input token (`kernels.hadamard`)

    @property
    def groups(self) -> int:
        """Scales per row."""
        return -(-self.k // self.segment)

    @property
    def panels(self) -> int:
        """Blocks of 16 rows."""
        return -(-self.n // PANEL_ROWS)

    @property
    def k_padded(self) -> int:
        """Stored columns, padding included."""
        return -(-self.k // COLUMN_STEP) * COLUMN_STEP

    @property
    def is_bit_serial(self) -> bool:
        """Whether every field is one bit plane."""
        return len(self.widths) == self.planes

    @property
    def scale(self) -> NDArray[np.float32]:
        """(n, groups) float32."""
        return self.panel_scale.reshape(self.groups, -1)[:, : self.n].T

    @property
    def zero(self) -> NDArray[np.int16]:
        """(n, groups) int16."""
        return self.panel_zero.reshape(self.groups, -1)[:, : self.n].T

    @property
    def nbytes(self) -> int:
        """Bytes in memory: codes, scales, zero points, sums and bias. No other copy exists."""
        bias = 0 if self.bias is None else self.bias.nbytes
        return self.data.nbytes + self.panel_scale.nbytes + self.panel_zero.nbytes + self.panel_sum.nbytes + bias

    def copy(self) -> "PackedWeight":
        """Copy the codes to new memory."""
        data = aligned_zeros(self.data.size)
        data[:] = self.data
        return replace(self, data=data)

    def codes(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint16]:
        """Unpack rows start .. stop - 1: (rows, k) uint16. Readable, not fast."""
        stop = self.n if stop is None else min(stop, self.n)
        first, last = start // PANEL_ROWS, -(-stop // PANEL_ROWS)
        panels = self.data.reshape(self.panels, -1, PANEL_ROWS)[first:last]
        rows = panels.transpose(0, 2, 1).reshape((last - first) * PANEL_ROWS, -1)
        return self._codes_in(rows[start - first * PANEL_ROWS : stop - first * PANEL_ROWS])

    def look_up(self, ids: NDArray[np.integer]) -> NDArray[np.float32]:
        """Dequantize the rows with these numbers: (len(ids), k) float32, as in `dequantize`. Reads no other row.

        Raises ShapeError for a number that is no row.
        """
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.dtype.kind not in "ui":
            raise ShapeError(f"rows are looked up by a list of integers, not by {ids.dtype} of shape {ids.shape}")
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.n:
            raise ShapeError(f"rows {ids.min()}..{ids.max()} are not among the rows 0..{self.n - 1} of this weight")
        panel, lane = np.divmod(ids, PANEL_ROWS)
        codes = self._codes_in(self.data.reshape(self.panels, -1, PANEL_ROWS)[panel, :, lane])
        zero, scale = (side[ids].repeat(self.segment, axis=1)[:, : self.k] for side in (self.zero, self.scale))
        return (self.spacing * codes.astype(np.int16) - zero).astype(np.float32) * scale

    def _codes_in(self, rows: NDArray[np.uint32]) -> NDArray[np.uint16]:
        """Unpack the words of some rows, (rows, planes * k_padded / 32), to codes (rows, k)."""
        codes = np.zeros((len(rows), self.k_padded), np.uint16)
        word, shift = 0, 0
        for width in self.widths.tolist():
            words = self.k_padded * width // 32
            octets = np.ascontiguousarray(rows[:, word : word + words], "<u4").view(np.uint8)
            octets = octets.reshape(len(rows), words, 1, 4)
            positions = np.arange(0, 8, width, dtype=np.uint8)[:, None]
            field = (octets >> positions) & np.uint8((1 << width) - 1)
            codes |= field.reshape(codes.shape).astype(np.uint16) << shift
            word, shift = word + words, shift + width
        return codes[:, : self.k]

    def levels(self, start: int = 0, stop: int | None = None) -> NDArray[np.int16]:
        """Rows start .. stop - 1 as spacing * code, (rows, k) int16.

        Zero points are not subtracted.
        """
        return self.spacing * self.codes(start, stop).astype(np.int16)

    def dequantize(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows start .. stop - 1 as (spacing code - zero) * scale: (rows, k) float32."""
        stop = self.n if stop is None else min(stop, self.n)
        rows = slice(start, stop)
        zero = np.repeat(self.zero[rows], self.segment, axis=1)[:, : self.k]
        scale = np.repeat(self.scale[rows], self.segment, axis=1)[:, : self.k]
        return (self.levels(start, stop) - zero).astype(np.float32) * scale


def pack_weight(  # noqa: PLR0913 - one parameter per field of a packed weight
    codes: NDArray[np.integer],
    planes: int,
    scale: NDArray[np.float32],
    zero: NDArray[np.integer],
    group_size: int | None = None,
    bias: NDArray[np.float32] | None = None,
    act_bits: int = 8,
    act_clip: float = 1.0,
    hadamard: int = 1,
    spacing: int = 1,
) -> PackedWeight:
    """Pack integer codes for the engine.

    codes: (n, k) integers in 0 .. 2**planes - 1.  planes: 1..9 (p, or p + 1 for a starred weight).  scale, zero:
    (n, groups) or (n,); zero is itself a code (2^(p-1) for a starred weight), or with spacing 2 the sum of two. With a
    larger spacing it may lie up to half a level outside the levels, as in a weight without its lowest planes.
    group_size: a multiple of 32, or None for one scale per row.  bias: (n,) float32.  act_bits: activation bits the
    layout is optimized for (others work, but slower).  act_clip: factor in (0, 1] on each token's range.  hadamard:
    block size of the transform that was applied to the weight and will be applied to each token; 1 for none.
    spacing: a power of two, in w = (spacing code - zero) * scale.  Raises ShapeError for arguments that do not fit.
    """
    codes = np.asarray(codes)
    _check_codes(codes, planes)
    n, k = codes.shape
    if group_size is not None and (group_size < COLUMN_STEP or group_size % COLUMN_STEP):
        raise ShapeError(f"group size {group_size} is not a multiple of {COLUMN_STEP}; use 32, 64, 128 ...")
    groups = 1 if group_size is None else -(-k // group_size)
    scale, zero = _per_group("scale", scale, n, groups), _per_group("zero", zero, n, groups)
    _check_zero(zero, planes, spacing)
    _check_finite("scale", scale)
    if bias is not None and np.shape(bias) != (n,):
        raise ShapeError(f"the bias has shape {np.shape(bias)}, expected ({n},)")
    if bias is not None:
        _check_finite("bias", np.asarray(bias)[:, None])
    _check_activations(act_clip, hadamard, k)
    segment = _segment(k, planes, group_size, spacing)
    if group_size is None:
        scale, zero = (np.repeat(a, -(-k // segment), axis=1) for a in (scale, zero))
    widths = [1] * planes if _by_planes(planes, act_bits) else [f for f in FIELD_WIDTHS if planes & f]
    return PackedWeight(
        n=n,
        k=k,
        planes=planes,
        group_size=group_size,
        segment=segment,
        widths=np.array(widths, np.int64),
        data=_pack_fields(codes, widths),
        panel_scale=_panel_major(scale, np.float32),
        panel_zero=_panel_major(zero, np.int16),
        panel_sum=_panel_major(_centred_sums(codes, zero, segment, spacing), np.int32),
        bias=None if bias is None else np.array(bias, np.float32),
        act_clip=act_clip,
        hadamard=hadamard,
        spacing=spacing,
    )


def _by_planes(planes: int, act_bits: int) -> bool:
    """Whether the bit-serial product is faster: at few bits; how few depends on the processor."""
    if planes * act_bits >= 8:
        return False
    from kernels.host.processor import target  # imports Numba, which is slow

    return planes * act_bits <= target().serial_products


def _check_codes(codes: NDArray[np.integer], planes: int) -> None:
    if not 1 <= planes <= MAX_PLANES:
        raise ShapeError(f"a weight can have 1..{MAX_PLANES} bit planes, got {planes}")
    if codes.ndim != 2 or 0 in codes.shape or codes.dtype.kind not in "ui":
        raise ShapeError(f"codes must be a non-empty (n, k) array of integers, got {codes.dtype} {codes.shape}")
    if int(codes.min()) < 0 or int(codes.max()) >= 1 << planes:
        raise ShapeError(f"codes {codes.min()}..{codes.max()} do not fit {planes} bit planes (0..{(1 << planes) - 1})")


def _check_zero(zero: NDArray[np.integer], planes: int, spacing: int) -> None:
    if not 1 <= spacing <= MAX_LEVEL >> planes or spacing & (spacing - 1):
        raise ShapeError(
            f"spacing is {spacing}; use 1, 2 for zero points halfway between two levels, or a power of two up to "
            f"{MAX_LEVEL >> planes} for a weight without its lowest planes"
        )
    largest, outside = spacing * ((1 << planes) - 1), spacing // 2 if spacing > 2 else 0
    if zero.size and (int(zero.min()) < -outside or int(zero.max()) > largest + outside):
        raise ShapeError(
            f"zero points {zero.min()}..{zero.max()} are not among the levels {-outside}..{largest + outside}"
        )


def _check_activations(act_clip: float, hadamard: int, k: int) -> None:
    if not 0 < act_clip <= 1:
        raise ShapeError(f"the activation clip is {act_clip}; it must be in (0, 1]")
    if not is_block_of(hadamard, k):
        raise ShapeError(
            f"{k} columns do not divide into Hadamard blocks of {hadamard}; use a power of two that divides {k}"
        )


def _per_group(name: str, values: NDArray[Any], n: int, groups: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape == (n,) and groups == 1:
        array = array[:, None]
    if array.shape != (n, groups):
        raise ShapeError(f"{name} has shape {array.shape}, expected ({n}, {groups})")
    return array


def _check_finite(name: str, values: NDArray[Any]) -> None:
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise ShapeError(f"the {name} of row {row} is {values[row, column]}; a weight to pack must be finite")


# The byte kernels add codes where they lie in a byte, shifted by up to 7 bits, and shift the sum back.
_MOST_SUMMED = 1 << 17


def most_columns(planes: int, spacing: int) -> int:
    """Columns whose sum of (qa - za)(spacing qw - zw) cannot leave int32."""
    largest = (spacing << planes) - (spacing if spacing <= 2 else spacing // 2)
    return (2**31 - 1) // (255 * largest)


def _segment(k: int, planes: int, group_size: int | None, spacing: int) -> int:
    """Columns per scale such that no sum leaves int32."""
    limit = min(most_columns(planes, spacing), _MOST_SUMMED) // COLUMN_STEP * COLUMN_STEP
    if group_size is None:
        return min(-(-k // COLUMN_STEP) * COLUMN_STEP, limit)
    if group_size > limit:
        raise ShapeError(f"a group of {group_size} columns at {planes} bits could overflow; use at most {limit}")
    return group_size


def _centred_sums(
    codes: NDArray[np.integer], zero: NDArray[np.integer], segment: int, spacing: int
) -> NDArray[np.int64]:
    """(n, groups): sum over a segment of spacing code - zero."""
    k = codes.shape[1]
    starts = np.arange(0, k, segment)
    lengths = np.minimum(segment, k - starts)
    sums = [
        np.add.reduceat(codes[row : row + _SUMMED_ROWS].astype(np.int64), starts, axis=1)
        for row in range(0, len(codes), _SUMMED_ROWS)  # a few rows at a time, because int64 takes eight bytes per code
    ]
    return spacing * np.concatenate(sums) - zero.astype(np.int64) * lengths


def _panel_major(values: NDArray[Any], dtype: type) -> NDArray[Any]:
    """(n, groups) -> flat (groups, n padded to 16)."""
    n, groups = values.shape
    out = np.zeros((groups, -(-n // PANEL_ROWS) * PANEL_ROWS), dtype)
    out[:, :n] = values.T
    return out.reshape(-1)


def _pack_fields(codes: NDArray[np.integer], widths: list[int]) -> NDArray[np.uint32]:
    n, k = codes.shape
    panels, k_padded = -(-n // PANEL_ROWS), -(-k // COLUMN_STEP) * COLUMN_STEP
    data = aligned_zeros(panels * sum(widths) * k_padded // 32 * PANEL_ROWS)
    words_of = data.reshape(panels, -1, PANEL_ROWS)
    for panel in range(panels):
        block = np.zeros((PANEL_ROWS, k_padded), np.uint8 if sum(widths) <= 8 else np.uint16)
        rows = codes[panel * PANEL_ROWS : (panel + 1) * PANEL_ROWS]
        block[: len(rows), :k] = rows
        word, shift = 0, 0
        for width in widths:
            words, positions = k_padded * width // 32, 8 // width
            octets = ((block >> shift) & ((1 << width) - 1)).astype(np.uint8, copy=False)
            fields = octets.view("<u4").reshape(PANEL_ROWS, words, positions)  # four columns in a word
            shifted = (fields[:, :, position] << width * position for position in range(positions))
            words_of[panel, word : word + words] = reduce(np.bitwise_or, shifted).T
            word, shift = word + words, shift + width
    return data


def aligned_zeros(count: int) -> NDArray[np.uint32]:
    """`count` uint32 zeros aligned to a cache line, so that vector loads do not cross lines."""
    raw = np.zeros(count + 15, np.uint32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + count]
