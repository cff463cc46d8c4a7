"""What torch offers on the same CPU: fp32, bf16 and dynamic int8 linears, to be timed beside the engine."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Peer:
    """One ready product: `run()` computes x W^T once. `path` says what torch calls for it."""

    engine: str
    precision: str
    path: str
    weight_bytes: int
    run: Callable[[], Any]


def torch_peers(weight: NDArray[np.float32], x: NDArray[np.float32]) -> list[Peer]:
    """torch-fp32, torch-bf16 and torch-int8 for weight (n, k) and x (m, k) float32.

    The bf16 activations are converted beforehand, as they are in a bf16 model; int8 quantizes them per call.
    """
    import torch

    w, tokens = torch.from_numpy(weight), torch.from_numpy(x)
    w16, tokens16 = w.bfloat16(), tokens.bfloat16()
    linear = torch.nn.functional.linear
    return [
        Peer("torch-fp32", "FP32", "F.linear", w.nbytes, lambda: linear(tokens, w)),
        Peer("torch-bf16", "BF16", "F.linear", w16.nbytes, lambda: linear(tokens16, w16)),
        _dynamic_int8(w, tokens),
    ]


def _dynamic_int8(w: Any, tokens: Any) -> Peer:
    """torch's dynamic int8 linear, by the faster of the back ends it has here."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scale = (w.abs().amax(dim=1) / 127).clamp(min=1e-8)
        quantized = torch.quantize_per_channel(w, scale, torch.zeros(len(w), dtype=torch.long), 0, torch.qint8)
        candidates = []
        chosen = torch.backends.quantized.engine
        try:
            for backend in {"x86", "onednn"} & set(torch.backends.quantized.supported_engines) or {chosen}:
                torch.backends.quantized.engine = backend
                packed = torch.ops.quantized.linear_prepack(quantized, None)

                def run(packed: Any = packed) -> Any:
                    return torch.ops.quantized.linear_dynamic(tokens, packed, False)

                candidates.append((_quick_seconds(run), backend, run))
        finally:
            torch.backends.quantized.engine = chosen
    _, backend, run = min(candidates, key=lambda candidate: candidate[0])
    weight_bytes = w.numel() + 4 * len(w)
    return Peer("torch-int8", "W8A8", f"quantized.linear_dynamic ({backend})", weight_bytes, run)


def _quick_seconds(run: Callable[[], Any]) -> float:
    run()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
