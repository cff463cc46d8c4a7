"""torch's products on a GPU: cuBLAS FP16 and BF16, cuBLASLt INT8, INT4 weight-only.

The comparison favours INT8 and INT4: INT8 operands are quantized and padded beforehand and the sums are not scaled;
INT4 keeps 16-bit activations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from kernels.cuda.ceiling import FP16_LIBRARY, INT8_LIBRARY
from kernels.cuda.peers.peer import GROUP, Peer, PeerError, Product, from_groups, to_groups, to_int8
from kernels.cuda.private_apis import int4_matmul, int8_matmul, pack_int4

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_INT8_TOKENS = 32  # torch._int_mm needs at least 17
_INT4_TILES = 8  # inner k tiles of 16, the layout that its authors benchmark
_INT4_ROWS, _INT4_COLUMNS = 64, 16 * _INT4_TILES


def makers() -> dict[str, Callable[[Tensor, Tensor, Callable[[int], int]], Peer]]:
    """Factories of the peers by precision, called with (weight (n, k), x (m, k), copies_of)."""
    import torch

    return {
        "FP16": partial(_floating, "cublas-fp16", "FP16", torch.float16),
        "BF16": partial(_floating, "cublas-bf16", "BF16", torch.bfloat16),
        "W8A8": _int8,
        "W4A16": _int4,
    }


def _floating(
    engine: str, precision: str, dtype: torch.dtype, weight: Tensor, x: Tensor, copies_of: Callable[[int], int]
) -> Peer:
    import torch

    full, tokens = weight.to(dtype), x.to(dtype)
    product = Product(
        engine=engine,
        precision=precision,
        path="F.linear",
        weight_bytes=full.nbytes,
        weights=[full.clone() for _ in range(copies_of(full.nbytes))],
        multiply=lambda w: torch.nn.functional.linear(tokens, w),
        kind=FP16_LIBRARY,
    )
    return Peer(product, lambda some: tokens[some].double() @ full.double().T)


def _int8(weight: Tensor, x: Tensor, copies_of: Callable[[int], int]) -> Peer:
    import torch

    codes, tokens = to_int8(weight)[0], to_int8(x)[0]
    rows = max(len(x), _INT8_TOKENS)
    padded = torch.zeros((-(-rows // 8) * 8, tokens.shape[1]), dtype=torch.int8, device=x.device)
    padded[: len(tokens)] = tokens
    product = Product(
        engine="cublaslt-int8",
        precision="W8A8",
        path=f"torch._int_mm, integers only, M padded to {len(padded)}",
        weight_bytes=codes.nbytes,
        weights=[codes.clone() for _ in range(copies_of(codes.nbytes))],
        multiply=lambda w: int8_matmul(padded, w.T),
        kind=INT8_LIBRARY,
    )
    return Peer(product, lambda some: tokens[some].double() @ codes.double().T, tolerance=0.0)  # exact below 2^53


def _int4(weight: Tensor, x: Tensor, copies_of: Callable[[int], int]) -> Peer:
    import torch

    n, k = weight.shape
    if n % _INT4_ROWS or k % _INT4_COLUMNS:
        raise PeerError(f"it needs multiples of {_INT4_ROWS} rows and {_INT4_COLUMNS} columns, not {n}x{k}")
    codes, scale, low = to_groups(weight, 4, torch.bfloat16)
    packed = pack_int4(codes[:, ::2] << 4 | codes[:, 1::2], _INT4_TILES)
    middle = (low.float() + 8 * scale.float()).bfloat16()  # torch's zero is the value of code 8
    pairs = torch.stack([scale, middle], dim=-1).transpose(0, 1).contiguous()
    tokens = x.bfloat16()
    weight_bytes = packed.nbytes + pairs.nbytes
    stored_low = middle.double() - 8 * scale.double()

    def multiply(parts: tuple[Tensor, Tensor]) -> Tensor:
        return int4_matmul(tokens, parts[0], GROUP, parts[1])

    product = Product(
        engine="torch-int4",
        precision="W4A16",
        path=f"torch._weight_int4pack_mm, groups of {GROUP}",
        weight_bytes=weight_bytes,
        weights=[(packed.clone(), pairs.clone()) for _ in range(copies_of(weight_bytes))],
        multiply=multiply,
        kind=FP16_LIBRARY,
    )
    return Peer(product, lambda some: tokens[some].double() @ from_groups(codes, scale, stored_low).T)
