"""The Hadamard transform in front of a linear, as calibration and simulation see it: with gradients.

In every token a few channels are far larger than the others, most of all in what an MLP's last linear reads. At 4 bits
one of them leaves hardly a level to the rest. Mixing channels first (QuaRot, arXiv 2404.00456; there all of them, here
blocks of up to 256) spreads it. The weight's columns go through the same transform, once.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.hadamard import transformed, transformed_tensor


def hadamard(x: Tensor, block: int) -> Tensor:
    """Every `block` channels of x (..., k) times H / sqrt(block), in float32, with gradients; twice is x again."""
    return x if block == 1 else _Transformed.apply(x.float(), block)


class _Transformed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: int) -> Tensor:
        ctx.block = block
        return _transformed(x, block)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _transformed(gradients[0], ctx.block), None  # the matrix is symmetric


def _transformed(x: Tensor, block: int) -> Tensor:
    if x.device.type != "cpu" or not x.numel():
        return transformed_tensor(x, block)
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous().numpy()
    return torch.from_numpy(transformed(rows, block)).view(x.shape)
