"""A quantized LM head: its weight has few bits, its input 16 as the sum of two parts of 8.

Rounding the input to 8 bits alone costs five times as much KL as rounding the weight to 8 (docs/method.md), because the
last hidden state has outlier channels and nothing is calibrated in front of the head. The second part is the rounding
error of the first. As a second token of the same product it needs no further read of the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abq_core.quantization.quantizers import fake_quant_activation
from kernels.dispatch import linear, linear_in_two_parts
from kernels.formats.weight import PackedWeight
from kernels.gpu import DeviceWeight

PART_BITS = 8


def in_two_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each token of x (..., channels) rounded to 8 bits, and what that leaves."""
    first = fake_quant_activation(x, PART_BITS)
    return first, x - first


class QuantHead(nn.Linear):
    """The simulated head: its weight is used unchanged, its input is fake-quantized in two parts."""

    @classmethod
    def wrap(cls, head: nn.Linear, weight: nn.Parameter) -> QuantHead:
        """A head with a rounded weight and the bias of `head`."""
        wrapped = cls(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        wrapped.weight, wrapped.bias = weight, head.bias
        return wrapped

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., width) to logits (..., vocabulary)."""
        first, rest = in_two_parts(x)
        return super().forward(first + fake_quant_activation(rest, PART_BITS))


class PackedHead(nn.Module):
    """The head as bit planes on the integer engine. Inference only.

    packed: without a bias, since it is multiplied twice; shared with the embedding if the two are tied.
    """

    def __init__(self, packed: PackedWeight | DeviceWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.packed, self.bias = packed, bias
        self.in_features, self.out_features = packed.k, packed.n

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., width) to logits (..., vocabulary) float32.

        Raises NotFiniteError on the CPU for an input that is not finite.
        """
        rows = x.detach().reshape(-1, self.in_features).float()
        if isinstance(self.packed, DeviceWeight):
            _, rest = in_two_parts(rows)
            products = linear(torch.cat([rows, rest]), self.packed, PART_BITS)  # rounds the first part itself
            y = products[: len(rows)] + products[len(rows) :]
        else:
            y = torch.from_numpy(linear_in_two_parts(rows.numpy(), self.packed, PART_BITS))
        y = y if self.bias is None else y + self.bias.float()
        return y.view(*x.shape[:-1], self.out_features)
