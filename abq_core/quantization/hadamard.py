"""The Hadamard transform of a linear's input, with gradients.

In every token a few channels are far larger than the others, most of all in the input of an MLP's last linear. At 4
bits one such outlier leaves almost no levels for the rest. Mixing channels first spreads it (QuaRot, arXiv 2404.00456,
which mixes all channels; here blocks of up to 256). The weight's columns are transformed once, in the same way.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.hadamard import transformed, transformed_tensor


def hadamard(x: Tensor, block: int) -> Tensor:
    """Multiply each block of channels of x (..., k) by H / sqrt(block), in float32.

    Applied twice it returns x.
    """
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
