"""What torch offers on the same GPU: cuBLAS in FP16 and BF16, cuBLASLt in INT8, its INT4 kernel; timed beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_INT8_TOKENS = 32  # torch._int_mm takes no fewer than 17
_INT4_GROUP = 128
_INT4_TILES = 8  # inner k tiles of 16, the layout its authors time


@dataclass(frozen=True)
class Peer:
    """One product. `multiply(weight)` computes x W^T once, with any of `weights`, equal ones in different memory."""

    engine: str
    precision: str
    path: str
    weight_bytes: int
    weights: list[Any]
    multiply: Callable[[Any], Tensor]


def gpu_peers(weight: Tensor, x: Tensor, copies_of: Callable[[int], int]) -> list[Peer]:
    """Products with weight (n, k) and x (m, k) float16 on one device; copies_of(bytes): how many weights to rotate.

    INT8 and INT4 are given what favours them: INT8 the bare integers, quantized and padded beforehand and not scaled
    back; INT4 16-bit activations.
    """
    found = [_floating("cublas-fp16", "FP16", weight, x, copies_of)]
    found.append(_floating("cublas-bf16", "BF16", weight.bfloat16(), x.bfloat16(), copies_of))
    found.append(_int8(weight, x, copies_of))
    n, k = weight.shape
    if weight.is_cuda and n % 64 == 0 and k % (16 * _INT4_TILES) == 0 and k % _INT4_GROUP == 0:
        found.append(_int4(weight, x, copies_of))
    return found


def _floating(engine: str, precision: str, weight: Tensor, x: Tensor, copies_of: Callable[[int], int]) -> Peer:
    import torch

    weights = [weight.clone() for _ in range(copies_of(weight.nbytes))]
    return Peer(engine, precision, "F.linear", weight.nbytes, weights, lambda w: torch.nn.functional.linear(x, w))


def _int8(weight: Tensor, x: Tensor, copies_of: Callable[[int], int]) -> Peer:
    import torch

    codes, tokens = _to_int8(weight), _to_int8(x)
    rows = max(len(x), _INT8_TOKENS)
    padded = torch.zeros((-(-rows // 8) * 8, tokens.shape[1]), dtype=torch.int8, device=x.device)
    padded[: len(tokens)] = tokens
    weights = [codes.clone() for _ in range(copies_of(codes.nbytes))]
    path = f"torch._int_mm, integers only, M padded to {len(padded)}"
    return Peer("cublaslt-int8", "W8A8", path, codes.nbytes, weights, lambda w: torch._int_mm(padded, w.T))


def _to_int8(values: Tensor) -> Tensor:
    import torch

    scale = values.abs().amax(dim=1, keepdim=True).clamp(min=1e-6) / 127
    return (values / scale).round().clamp(-127, 127).to(torch.int8)


def _int4(weight: Tensor, x: Tensor, copies_of: Callable[[int], int]) -> Peer:
    import torch

    n, k = weight.shape
    grouped = weight.float().reshape(n, k // _INT4_GROUP, _INT4_GROUP)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scale = ((high - low) / 15).clamp(min=1e-6)
    codes = ((grouped - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.uint8).reshape(n, k)
    packed = torch._convert_weight_to_int4pack(codes[:, ::2] << 4 | codes[:, 1::2], _INT4_TILES)
    middles = torch.stack([scale, low + 8 * scale], dim=-1).transpose(0, 1).contiguous().bfloat16()
    tokens = x.bfloat16()
    weight_bytes = packed.nbytes + middles.nbytes
    weights = [(packed.clone(), middles.clone()) for _ in range(copies_of(weight_bytes))]

    def multiply(pair: tuple[Tensor, Tensor]) -> Tensor:
        return torch._weight_int4pack_mm(tokens, pair[0], _INT4_GROUP, pair[1])

    return Peer("torch-int4", "W4A16", f"torch._weight_int4pack_mm, groups of {_INT4_GROUP}", weight_bytes, weights,
                multiply)  # fmt: skip
