"""torch as a peer: fp32, bf16, dynamic int8 and, if this build has the kernel, packed int4."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernels.benchmark.peers.peer import Peer

if TYPE_CHECKING:
    import torch

# torch has no public packed int4 product. The private functions were checked with torch 2.13; the test of the peers
# fails if they are missing.
_INT4_GROUP = 128
_INT4_ROWS = 64


def torch_peers(n: int, k: int, copies: Callable[[int], int]) -> list[Peer]:
    """torch-fp32, torch-bf16, torch-int8 and torch-int4pack for random integer weights (n, k).

    copies(bytes): number of copies to hold of a weight of that size.  The activations of torch-bf16 and torch-int4pack
    are converted to bf16 beforehand, as in a bf16 model; torch-int8 quantizes them in each call.
    """
    import torch

    integers = np.random.default_rng(n + k).integers(-127, 128, (n, k), dtype=np.int8)
    weight = torch.from_numpy(integers)
    peers = [_linear(weight, integers, torch.float32, copies), _linear(weight, integers, torch.bfloat16, copies)]
    peers.append(_dynamic_int8(weight, integers, copies))
    if k % _INT4_GROUP == 0 and n % _INT4_ROWS == 0 and hasattr(torch, "_weight_int4pack_mm_for_cpu"):
        peers.append(_int4pack(n, k, copies))
    return peers


def _linear(weight: Any, integers: NDArray[np.int8], dtype: torch.dtype, copies: Callable[[int], int]) -> Peer:
    import torch

    held = [weight.to(dtype) for _ in range(copies(weight.numel() * dtype.itemsize))]

    def bind(x: NDArray[np.float32]) -> list[Callable[[], Any]]:
        tokens = torch.from_numpy(x).to(dtype)
        return [partial(torch.nn.functional.linear, tokens, w) for w in held]

    engine = {torch.float32: "torch-fp32", torch.bfloat16: "torch-bf16"}[dtype]
    precision = "FP32" if dtype == torch.float32 else "BF16"
    return Peer(engine, precision, "F.linear", held[0].nbytes, integers, bind, _to_numpy, partial(_rounded, dtype))


def _dynamic_int8(weight: Any, integers: NDArray[np.int8], copies: Callable[[int], int]) -> Peer:
    """torch's dynamic int8 linear.

    `bind` chooses the faster of the available back ends for those tokens.
    """
    import torch

    weight_bytes = weight.numel() + 4 * len(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that quantized tensors are deprecated
        ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.long)
        quantized = torch.quantize_per_channel(weight.float(), ones, zeros, 0, torch.qint8)
    previous = torch.backends.quantized.engine
    backends = sorted({"x86", "onednn"} & set(torch.backends.quantized.supported_engines)) or [previous]
    packed: dict[str, list[Any]] = {}
    try:
        for backend in backends:
            torch.backends.quantized.engine = backend
            prepack = torch.ops.quantized.linear_prepack
            packed[backend] = [prepack(quantized.clone(), None) for _ in range(copies(weight_bytes))]
    finally:
        torch.backends.quantized.engine = previous

    def bind(x: NDArray[np.float32]) -> list[Callable[[], Any]]:
        tokens, dynamic = torch.from_numpy(x), torch.ops.quantized.linear_dynamic
        candidates: list[list[Callable[[], Any]]] = [
            [partial(dynamic, tokens, w, False) for w in held] for held in packed.values()
        ]
        return min(candidates, key=lambda runs: _quick_seconds(runs[0]))

    path = f"quantized.linear_dynamic (best of {', '.join(packed)})"
    return Peer("torch-int8", "W8A8", path, weight_bytes, integers, bind, _to_numpy, affine=True)


def _int4pack(n: int, k: int, copies: Callable[[int], int]) -> Peer:
    import torch

    codes = np.random.default_rng(n - k if n > k else k - n).integers(0, 16, (n, k), dtype=np.int8)
    packed = torch._convert_weight_to_int4pack_for_cpu(torch.from_numpy(codes).int(), 1)
    group = torch.stack([torch.ones(k // _INT4_GROUP, n), torch.zeros(k // _INT4_GROUP, n)], dim=-1)
    scale_and_zero = group.to(torch.bfloat16).contiguous()
    weight_bytes = packed.nbytes + scale_and_zero.nbytes
    held = [packed.clone() for _ in range(copies(weight_bytes))]

    def bind(x: NDArray[np.float32]) -> list[Callable[[], Any]]:
        tokens, product = torch.from_numpy(x).to(torch.bfloat16), torch._weight_int4pack_mm_for_cpu
        return [partial(product, tokens, w, _INT4_GROUP, scale_and_zero) for w in held]

    path = f"_weight_int4pack_mm_for_cpu (groups of {_INT4_GROUP})"
    rounded = partial(_rounded, torch.bfloat16)
    return Peer("torch-int4pack", "W4A16", path, weight_bytes, codes - np.int8(8), bind, _to_numpy, rounded)


def _to_numpy(product: Any) -> NDArray[np.float64]:
    return product.double().numpy()


def _rounded(dtype: torch.dtype, values: NDArray[np.float64]) -> NDArray[np.float64]:
    import torch

    return torch.from_numpy(values).to(dtype).double().numpy()


def _quick_seconds(run: Callable[[], Any]) -> float:
    run()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
