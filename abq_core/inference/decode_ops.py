"""What one token needs between a block's products: by torch's own functions, or on a GPU by kernels of ours.

Besides the products a block takes about 14 launches of torch's; of the kernels two where linears are packed or INT8,
which norm and gate a token as they quantize it, and five where they are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from abq_core.inference.int8_linear import Int8Linear
from abq_core.quantization.quant_linear import PackedLinear
from abq_core.quantization.quantizers import fake_quant_activation
from kernels.dispatch import linear as packed_linear
from kernels.gpu import (
    AttentionInput,
    CompileError,
    CudaError,
    DeviceWeight,
    Gated,
    Input,
    Normed,
    decode_attention,
    int8,
    materialize,
)


@dataclass(frozen=True)
class DecodePosition:
    """Where a token stands: position (1,) int64, below `bucket`; cos and sin (d,), the first half of sin negative."""

    position: Tensor
    cos: Tensor
    sin: Tensor
    bucket: int
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """What is added to the scores of the first positions, (bucket,): 0, or -inf for one that is not seen."""
        if window not in self._masks:
            positions = torch.arange(self.bucket, device=self.position.device)
            hidden = positions > self.position
            if window is not None:
                hidden |= positions <= self.position - window
            self._masks[window] = self.cos.new_zeros(self.bucket).masked_fill_(hidden, -torch.inf)
        return self._masks[window]


class DecodeOps(Protocol):
    """The calls that a block makes. A `Normed` is read once: then its x is the sum."""

    def products(self, linears: list[nn.Module], x: Input) -> Tensor:
        """The outputs of all linears for one token, side by side, (1, n)."""
        ...

    def materialize(self, x: Gated | Normed) -> Tensor:
        """The values that x stands for, (1, k)."""
        ...

    def attention(self, token: AttentionInput, at: DecodePosition) -> Tensor:
        """The token's keys and values are kept, and its attention comes back, (heads, d). Changes `token.parts`."""
        ...


def decode_ops_for(device: torch.device, d: int) -> DecodeOps:
    """The kernels on a GPU where they work for heads of d values, else torch."""
    if device.type == "cuda" and decode_attention.fits(d):
        try:
            if decode_attention.works(device.index or 0):
                return CudaOps()
        except (CompileError, CudaError):  # without CuPy, torch alone decodes what is not packed
            pass
    return TorchOps()


class TorchOps:
    """`DecodeOps` on any device."""

    def products(self, linears: list[nn.Module], x: Input) -> Tensor:
        return _side_by_side(linears, x if isinstance(x, Tensor) else self.materialize(x))

    def materialize(self, x: Gated | Normed) -> Tensor:
        if isinstance(x, Gated):
            gate, up = x.gate_up.chunk(2, dim=-1)
            return nn.functional.silu(gate) * up
        if x.added is not None:
            x.x.add_(x.added)
        return nn.functional.rms_norm(x.x, x.x.shape[-1:], x.norm, x.epsilon)

    def attention(self, token: AttentionInput, at: DecodePosition) -> Tensor:
        parts, heads, kv_heads = token.parts, token.heads, token.kv_heads
        turned = parts[: heads + kv_heads]
        turned = torch.addcmul(turned * at.cos, turned.roll(turned.shape[-1] // 2, -1), at.sin)
        for kept, new in ((token.keys, turned[heads:]), (token.values, parts[heads + kv_heads :])):
            kept.index_copy_(1, at.position, rounded(new, token.bits)[:, None])
        keys, values = token.keys[:, : at.bucket], token.values[:, : at.bucket]
        by_kv_head = turned[:heads].reshape(kv_heads, -1, turned.shape[-1])
        scores = torch.baddbmm(at.mask(token.window), by_kv_head, keys.transpose(1, 2), alpha=token.scale)
        return (torch.softmax(scores, dim=-1) @ values).view(heads, -1)  # in 16 bits too, softmax adds up in float32


class CudaOps:
    """`DecodeOps` on a GPU."""

    def products(self, linears: list[nn.Module], x: Input) -> Tensor:
        first = linears[0]
        if len(linears) == 1 and isinstance(first, PackedLinear) and isinstance(first.packed, DeviceWeight):
            return packed_linear(x, first.packed, first.act_bits)
        if len(linears) == 1 and isinstance(first, Int8Linear) and _in_two_launches(first):
            return int8.linear(x, first.codes, first.scale, first.bias)
        return _side_by_side(linears, x if isinstance(x, Tensor) else self.materialize(x))

    def materialize(self, x: Gated | Normed) -> Tensor:
        return materialize(x)

    def attention(self, token: AttentionInput, at: DecodePosition) -> Tensor:
        return decode_attention.attention(token, at.cos, at.sin, at.position, at.bucket)


def _in_two_launches(linear: Int8Linear) -> bool:
    return int8.fits(linear.codes) and int8.works(linear.codes.device.index or 0)


def rounded(values: Tensor, bits: int | None) -> Tensor:
    """Keys or values (..., d) as the modules' attention sees them."""
    if bits is None:
        return values
    return fake_quant_activation(values, bits, _no_clip(values.dtype, values.device))


@cache
def _no_clip(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: a number would be copied to the GPU at every step, and a new tensor filled."""
    return torch.ones((), dtype=dtype, device=device)


def _side_by_side(linears: list[nn.Module], x: Tensor) -> Tensor:
    outputs = [linear(x) for linear in linears]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
