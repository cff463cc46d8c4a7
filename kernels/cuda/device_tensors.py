"""The tensors of a product on the GPU: uploaded weight, quantized activations, workspace."""

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
_INT8_TOKENS = 32


@dataclass(frozen=True, eq=False)
class DeviceWeight:
    """A packed weight (n, k) on a GPU, in fragment order (`kernels.cuda.fragments`).

    Made by `upload`.
    """

    n: int
    k: int
    planes: int
    group_size: int | None
    segment: int  # columns that share a scale
    groups: int  # scales per row
    data: Tensor  # (tiles, chunks, planes, 32, 4) int32
    scale: Tensor  # (groups, n padded to 16) float32
    zero: Tensor  # (groups, n padded) int16
    sums: Tensor  # (groups, n padded) int32
    bias: Tensor | None  # (n padded,) float32
    spacing: int = 1  # w = (spacing code - zero) scale
    act_clip: float = 1.0  # clipping factor on each token's range (`kernels.formats.activations`)
    hadamard: int = 1  # block size of the Hadamard transform of the activations (`kernels.hadamard`); 1: none

    @property
    def tiles(self) -> int:
        """Number of tiles of 16 rows."""
        return -(-self.n // TILE_ROWS)

    @property
    def chunks(self) -> int:
        """Number of chunks of 256 columns."""
        return -(-self.k // CHUNK)

    @property
    def steps(self) -> int:
        """Number of half chunks of 128 columns, the last one possibly partial."""
        return -(-self.k // HALF)

    @property
    def grouped(self) -> bool:
        """Whether a row has more than one scale."""
        return self.groups > 1

    @property
    def nbytes(self) -> int:
        """Bytes of GPU memory. The weight is stored nowhere else."""
        parts = [self.data, self.scale, self.zero, self.sums] + ([] if self.bias is None else [self.bias])
        return sum(part.nbytes for part in parts)

    def copy(self) -> DeviceWeight:
        """A copy in new memory; only the bias is shared."""
        parts = {name: getattr(self, name).clone() for name in ("data", "scale", "zero", "sums")}
        return replace(self, **parts)


def upload(weight: PackedWeight, device: str) -> DeviceWeight:
    """Copy a packed weight to a torch device such as "cuda:0", in fragment order."""
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
    """Columns of the binary product per token: its bits rounded up to a power of two."""
    return 1 << (act_bits - 1).bit_length()


def padded_tokens(m: int, family: str, act_bits: int) -> int:
    """m rounded up to whole column tiles, which is how many tokens are stored."""
    step = TOKENS_PADDED // plane_columns(act_bits) if family == BINARY else TOKENS_PADDED
    return -(-m // step) * step


def padded_int8_tokens(m: int) -> int:
    """m rounded up to a multiple of 32: cuBLASLt's INT8 product needs at least 17 rows."""
    return -(-m // _INT8_TOKENS) * _INT8_TOKENS


@dataclass(frozen=True, eq=False)
class QuantizedActivations:
    """m quantized tokens on a GPU.

    The tensors are uninitialized until `kernels.cuda.launch.quantize` fills them.
    """

    m: int
    act_bits: int
    family: str  # BINARY: codes are bit planes; BYTES: codes are bytes
    codes: Tensor  # int32, in fragment order (quantize.cu)
    scale: Tensor  # (padded m,) float32
    zero: Tensor  # (padded m,) int32
    sums: Tensor  # (padded m, groups) int32
    counters: Tensor  # int32, at least one per output tile

    @classmethod
    def empty(cls, m: int, act_bits: int, family: str, weight: DeviceWeight, tiles: int) -> QuantizedActivations:
        """Allocate buffers for m tokens. tiles: number of output tiles of the product."""
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
    """Operands and sums of cuBLASLt's INT8 product, padded to shapes that it accepts."""

    weight: Tensor  # (n padded to 16, k padded to 256) int8
    acts: Tensor  # (m padded, k padded) int8
    sums: Tensor  # (m padded, n padded) int32

    @classmethod
    def empty(cls, m: int, weight: DeviceWeight) -> Int8Workspace:
        """Allocate the workspace for m tokens."""
        import torch

        rows, columns, tokens = weight.tiles * TILE_ROWS, weight.chunks * CHUNK, padded_int8_tokens(m)

        def empty(first: int, second: int, dtype: torch.dtype) -> Tensor:
            return torch.empty((first, second), dtype=dtype, device=weight.data.device)

        return cls(
            weight=empty(rows, columns, torch.int8),
            acts=empty(tokens, columns, torch.int8),
            sums=empty(tokens, rows, torch.int32),
        )
