"""Matrices multiplied in bfloat16, where that is faster."""

import torch


def bfloat16_products(device: torch.device) -> torch.autocast:
    """A context in which `device` multiplies float32 matrices in bfloat16 if it has instructions for that.

    Elsewhere nothing changes: a CPU without them emulates bfloat16, slowly. The type holds every activation code of up
    to 8 bits exactly.
    """
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
