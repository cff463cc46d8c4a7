"""The INT8 that a GPU's users have without us: torch's integer product (cuBLASLt), for comparison.

A weight has one scale a row, an activation one a token, taken as it comes; both are symmetric.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.gpu import int8_matmul, padded_int8_tokens

_TOP = 127
_LEAST = 1e-6  # of a row's peak: a row of zeros has no scale of its own


class Int8Linear(nn.Module):
    """y = x W^T + bias with W and x in int8. Inference only. Tokens are padded to a multiple of 32 with zeros, since
    cuBLASLt takes no fewer than 17, and that is part of what it costs at batch 1. What stands around the product here
    in torch's operations, a decode step on a GPU does in two launches (`kernels.cuda.int8`).
    """

    codes: Tensor  # (out_features, in_features) int8
    scale: Tensor  # (out_features,) float32
    bias: nn.Parameter | None  # (out_features,)

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)  # takes the model's dtype with it

    @classmethod
    def round(cls, linear: nn.Linear) -> Int8Linear:
        """The weight of `linear`, rounded to nearest; its bias, not copied."""
        scale = _peaks(linear.weight) / _TOP
        codes = torch.round(linear.weight.detach() / scale).to(torch.int8)
        return cls(codes, scale[:, 0], None if linear.bias is None else linear.bias.detach())

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) float32, float16 or bfloat16 -> (..., out_features) of the same dtype."""
        rows = x.reshape(-1, self.in_features)
        scale = _peaks(rows) / _TOP
        padded = rows.new_zeros((padded_int8_tokens(len(rows)), self.in_features), dtype=torch.int8)
        padded[: len(rows)] = torch.round(rows / scale)
        totals = int8_matmul(padded, self.codes.T)[: len(rows)]
        y = (totals * scale * self.scale).to(x.dtype)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features)


def _peaks(rows: Tensor) -> Tensor:
    """The largest magnitude of each row, (rows, 1) float32."""
    return torch.linalg.vector_norm(rows.detach(), torch.inf, -1, keepdim=True, dtype=torch.float32).clamp_(min=_LEAST)
