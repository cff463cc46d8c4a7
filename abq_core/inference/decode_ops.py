"""The operations of a decode step (linears, norm, gate, attention) by torch or our kernels.

In addition to its products, a block takes about 14 torch launches. With our kernels it takes two if its linears are
packed or INT8, because the norm and the gate are fused into the quantization of the token, and five otherwise.
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
    """The position of a token, with its rotary embedding.

    position: (1,) int64 on the model's device, less than `bucket`.  cos, sin: (d,), the first half of sin negated.
    bucket: number of cached positions that attention reads.
    """

    position: Tensor
    cos: Tensor
    sin: Tensor
    bucket: int
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor:
        """The additive attention mask, (bucket,): 0, or -inf for positions that are not visible."""
        if window not in self._masks:
            positions = torch.arange(self.bucket, device=self.position.device)
            hidden = positions > self.position
            if window is not None:
                hidden |= positions <= self.position - window
            self._masks[window] = self.cos.new_zeros(self.bucket).masked_fill_(hidden, -torch.inf)
        return self._masks[window]


class DecodeOps(Protocol):
    """The operations of a decode step.

    Reading a `Normed` input updates its residual stream x.
    """

    def linears(self, linears: list[nn.Module], x: Input) -> Tensor:
        """The outputs of linears with a common input, for one token, concatenated: (1, n)."""
        ...

    def materialize(self, x: Gated | Normed) -> Tensor:
        """The values of a fused input, (1, k)."""
        ...

    def attention(self, token: AttentionInput, at: DecodePosition) -> Tensor:
        """Cache the token's keys and values, and attend: (heads, d). Overwrites `token.qkv`."""
        ...


def decode_ops_for(device: torch.device, d: int) -> DecodeOps:
    """The GPU kernels if they work on the device and support heads of d values, else torch."""
    if device.type == "cuda" and decode_attention.fits(d):
        try:
            if decode_attention.works(device.index or 0):
                return CudaOps()
        except (CompileError, CudaError):  # without CuPy, torch still decodes models that are not packed
            pass
    return TorchOps()


class TorchOps:
    """`DecodeOps` by torch, on any device."""

    def linears(self, linears: list[nn.Module], x: Input) -> Tensor:
        """The outputs of linears that read the same input, concatenated."""
        return _concatenated(linears, x if isinstance(x, Tensor) else self.materialize(x))

    def materialize(self, x: Gated | Normed) -> Tensor:
        """The tensor that a gated or normalized input stands for."""
        if isinstance(x, Gated):
            gate, up = x.gate_up.chunk(2, dim=-1)
            return nn.functional.silu(gate) * up
        if x.added is not None:
            x.x.add_(x.added)
        return nn.functional.rms_norm(x.x, x.x.shape[-1:], x.norm, x.epsilon)

    def attention(self, token: AttentionInput, at: DecodePosition) -> Tensor:
        """Append the token's keys and values to the cache and attend to it."""
        qkv, heads, kv_heads = token.qkv, token.heads, token.kv_heads
        rotated = qkv[: heads + kv_heads]
        rotated = torch.addcmul(rotated * at.cos, rotated.roll(rotated.shape[-1] // 2, -1), at.sin)
        for cached, new in ((token.keys, rotated[heads:]), (token.values, qkv[heads + kv_heads :])):
            cached.index_copy_(1, at.position, quantize_kv(new, token.kv_bits)[:, None])
        keys, values = token.keys[:, : at.bucket], token.values[:, : at.bucket]
        queries = rotated[:heads].reshape(kv_heads, -1, rotated.shape[-1])
        scores = torch.baddbmm(at.mask(token.window), queries, keys.transpose(1, 2), alpha=token.scale)
        return (torch.softmax(scores, dim=-1) @ values).view(heads, -1)  # softmax accumulates in float32


class CudaOps:
    """`DecodeOps` by our kernels, on a GPU."""

    def linears(self, linears: list[nn.Module], x: Input) -> Tensor:
        """The outputs of linears that read the same input, concatenated."""
        first = linears[0]
        if len(linears) == 1 and isinstance(first, PackedLinear) and isinstance(first.packed, DeviceWeight):
            return packed_linear(x, first.packed, first.act_bits)
        if len(linears) == 1 and isinstance(first, Int8Linear) and _has_fused_int8(first):
            return int8.linear(x, first.codes, first.scale, first.bias)
        return _concatenated(linears, x if isinstance(x, Tensor) else self.materialize(x))

    def materialize(self, x: Gated | Normed) -> Tensor:
        """The tensor that a gated or normalized input stands for."""
        return materialize(x)

    def attention(self, token: AttentionInput, at: DecodePosition) -> Tensor:
        """Append the token's keys and values to the cache and attend to it."""
        return decode_attention.attention(token, at.cos, at.sin, at.position, at.bucket)


def _has_fused_int8(linear: Int8Linear) -> bool:
    return int8.fits(linear.codes) and int8.works(linear.codes.device.index or 0)


def quantize_kv(values: Tensor, bits: int | None) -> Tensor:
    """Fake-quantize keys or values (..., d) as the modules do; bits None: unchanged."""
    if bits is None:
        return values
    return fake_quant_activation(values, bits, _no_clipping(values.dtype, values.device))


@cache
def _no_clipping(dtype: torch.dtype, device: torch.device) -> Tensor:
    """A clipping factor of 1 as a tensor, allocated once.

    A Python number would be copied to the GPU at every step.
    """
    return torch.ones((), dtype=dtype, device=device)


def _concatenated(linears: list[nn.Module], x: Tensor) -> Tensor:
    outputs = [linear(x) for linear in linears]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
