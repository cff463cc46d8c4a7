"""The INT8 baseline: torch's integer product (cuBLASLt), to compare the packed engine with.

Quantization is symmetric: one scale per row of the weight, one dynamic scale per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.gpu import int8_matmul, padded_int8_tokens

_TOP = 127
_LEAST = 1e-6  # lower bound of a row's peak: avoids a zero scale for a row of zeros


class Int8Linear(nn.Module):
    """y = x W^T + bias with W and x in int8. Inference only.

    Tokens are padded with zeros to a multiple of 32, because cuBLASLt needs at least 17; this is part of its cost at
    batch 1. Here the product is surrounded by torch operations; a decode step on a GPU fuses them into two launches
    (`kernels.gpu.int8`).
    """

    codes: Tensor  # (out_features, in_features) int8
    scale: Tensor  # (out_features,) float32
    bias: nn.Parameter | None  # (out_features,)

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        # a parameter, not a buffer: it follows the model's dtype
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def round(cls, linear: nn.Linear) -> Int8Linear:
        """Round the weight of `linear` to nearest. The bias is shared, not copied."""
        scale = _peaks(linear.weight) / _TOP
        codes = torch.round(linear.weight.detach() / scale).to(torch.int8)
        return cls(codes, scale[:, 0], None if linear.bias is None else linear.bias.detach())

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features), float32, float16 or bfloat16 -> (..., out_features) of x's dtype."""
        rows = x.reshape(-1, self.in_features)
        scale = _peaks(rows) / _TOP
        padded = rows.new_zeros((padded_int8_tokens(len(rows)), self.in_features), dtype=torch.int8)
        padded[: len(rows)] = torch.round(rows / scale)
        totals = int8_matmul(padded, self.codes.T)[: len(rows)]
        y = (totals * scale * self.scale).to(x.dtype)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)


def _peaks(rows: Tensor) -> Tensor:
    """The largest magnitude of each row, (rows, 1) float32, at least `_LEAST`."""
    return torch.linalg.vector_norm(rows.detach(), torch.inf, -1, keepdim=True, dtype=torch.float32).clamp_(min=_LEAST)
