"""Matrix products in bfloat16 on devices where that is faster than float32."""

import torch

from kernels.host.processor import features


def bfloat16_products(device: torch.device) -> torch.autocast:
    """An autocast context: float32 products run in bfloat16 if `device` has instructions for it.

    Enabled on CUDA and on CPUs with AVX512-BF16; other CPUs emulate bfloat16 slowly, so nothing changes there. bfloat16
    represents activation codes of up to 8 bits exactly.
    """
    fast = device.type == "cuda" or "avx512bf16" in features()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
