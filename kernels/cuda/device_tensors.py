"""What a product on the GPU works on, as torch tensors: an uploaded weight, quantized activations, scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from kernels.cuda.fragments import CHUNK, HALF, TILE_ROWS, to_fragments
from kernels.cuda.tiles import BINARY
from kernels.formats.weight import PackedWeight

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_PADDED = 8
_LIBRARY_TOKENS = 32


@dataclass(frozen=True, eq=False)
class DeviceWeight:
    """A weight (n, k) on a device, in fragment order (`kernels.cuda.fragments`). Made by `upload`."""

    n: int
    k: int
    planes: int
    group_size: int | None
    segment: int  # columns that share a scale
    groups: int
    data: Tensor  # (tiles, chunks, planes, 32, 4) int32
    scale: Tensor  # (groups, n padded to 16) float32
    zero: Tensor  # (groups, n padded) int16
    sums: Tensor  # (groups, n padded) int32
    bias: Tensor | None  # (n padded,) float32
    spacing: int = 1  # w = (spacing code - zero) scale
    act_clip: float = 1.0  # factor on the range of each token (`kernels.formats.activations`)
    hadamard: int = 1  # channels of a block of the transform that each token goes through (`kernels.hadamard`)

    @property
    def tiles(self) -> int:
        """Blocks of 16 rows."""
        return -(-self.n // TILE_ROWS)

    @property
    def chunks(self) -> int:
        """Blocks of 256 columns."""
        return -(-self.k // CHUNK)

    @property
    def steps(self) -> int:
        """Blocks of 128 columns that hold any."""
        return -(-self.k // HALF)

    @property
    def grouped(self) -> bool:
        """Whether a row has more than one scale."""
        return self.groups > 1

    @property
    def nbytes(self) -> int:
        """Bytes on the device. There is no other copy."""
        parts = [self.data, self.scale, self.zero, self.sums] + ([] if self.bias is None else [self.bias])
        return sum(part.nbytes for part in parts)

    def copy(self) -> DeviceWeight:
        """The same weight elsewhere in memory, but for its bias."""
        parts = {name: getattr(self, name).clone() for name in ("data", "scale", "zero", "sums")}
        return replace(self, **parts)


def upload(weight: PackedWeight, device: str) -> DeviceWeight:
    """The weight in fragment order on a torch device such as "cuda:0"."""
    import torch

    fragments = to_fragments(weight)
    bias = None if fragments.bias is None else torch.from_numpy(fragments.bias).to(device)
    return DeviceWeight(
        n=weight.n,
        k=weight.k,
        planes=weight.planes,
        group_size=weight.group_size,
        segment=fragments.segment,
        groups=fragments.groups,
        data=torch.from_numpy(fragments.data.view(np.int32)).to(device),
        scale=torch.from_numpy(fragments.scale).to(device),
        zero=torch.from_numpy(fragments.zero).to(device),
        sums=torch.from_numpy(fragments.sums).to(device),
        bias=bias,
        spacing=weight.spacing,
        act_clip=weight.act_clip,
        hadamard=weight.hadamard,
    )


def plane_columns(act_bits: int) -> int:
    """Columns of the binary product that a token takes: its bits rounded up to a power of two."""
    return 1 << (act_bits - 1).bit_length()


def padded_tokens(m: int, family: str, act_bits: int) -> int:
    """Tokens as stored: whole column tiles."""
    step = TOKENS_PADDED // plane_columns(act_bits) if family == BINARY else TOKENS_PADDED
    return -(-m // step) * step


def padded_int8_tokens(m: int) -> int:
    """Tokens as cuBLASLt multiplies them in INT8: whole 32, since it takes no fewer than 17."""
    return -(-m // _LIBRARY_TOKENS) * _LIBRARY_TOKENS


@dataclass(frozen=True, eq=False)
class QuantizedActivations:
    """m tokens of k values as integers on a device; empty tensors until `kernels.cuda.launch.quantize` fills them."""

    m: int
    act_bits: int
    family: str  # BINARY: bit planes; BYTES: bytes
    codes: Tensor  # int32, in fragment order (quantize.cu)
    scale: Tensor  # (padded m,) float32
    zero: Tensor  # (padded m,) int32
    sums: Tensor  # (padded m, groups) int32
    counters: Tensor  # int32, at least one for each output tile

    @classmethod
    def empty(cls, m: int, act_bits: int, family: str, weight: DeviceWeight, tiles: int) -> QuantizedActivations:
        """Room for m tokens beside a weight; tiles: output tiles of the product that follows."""
        import torch

        rows = padded_tokens(m, family, act_bits)
        words = rows * plane_columns(act_bits) * weight.chunks * 8 if family == BINARY else rows * weight.chunks * 64

        def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=weight.data.device)

        return cls(
            m=m,
            act_bits=act_bits,
            family=family,
            codes=empty(words),
            scale=empty(rows, dtype=torch.float32),
            zero=empty(rows),
            sums=empty(rows, weight.groups),
            counters=empty(tiles),
        )


@dataclass(frozen=True, eq=False)
class Int8Workspace:
    """Operands and sums of a library's INT8 product: rows padded so that cuBLASLt takes them."""

    weight: Tensor  # (n padded to 16, k padded to 256) int8
    acts: Tensor  # (m padded, k padded) int8
    sums: Tensor  # (m padded, n padded) int32

    @classmethod
    def empty(cls, m: int, weight: DeviceWeight) -> Int8Workspace:
        """Room for the product of m tokens."""
        import torch

        rows, columns, tokens = weight.tiles * TILE_ROWS, weight.chunks * CHUNK, padded_int8_tokens(m)

        def empty(first: int, second: int, dtype: torch.dtype) -> Tensor:
            return torch.empty((first, second), dtype=dtype, device=weight.data.device)

        return cls(
            weight=empty(rows, columns, torch.int8),
            acts=empty(tokens, columns, torch.int8),
            sums=empty(tokens, rows, torch.int32),
        )
