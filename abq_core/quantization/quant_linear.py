"""Linears of a quantized block: fake-quantized, and packed for the integer engine."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from abq_core.precision import Precision
from abq_core.quantization.hadamard import hadamard
from abq_core.quantization.quantizers import QuantizedWeight, fake_quant_activation
from kernels.dispatch import linear as packed_linear
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.gpu import DeviceWeight, upload


class QuantLinear(nn.Linear):
    """A linear whose input is fake-quantized per token; its weight is used unchanged.

    act_bits: 16 for no quantization.  act_clip: () float32 in (0, 1], a factor on each token's range.
    hadamard: block size of the input's Hadamard transform, already applied to the weight's columns; 1: none.
    stored_bytes: size of the weight as integers (codes, scales, zero points), or two bytes per value if it is not
    quantized.
    """

    act_bits: int
    act_clip: Tensor
    hadamard: int
    stored_bytes: int

    @classmethod
    def wrap(cls, linear: nn.Linear, act_bits: int, hadamard: int = 1) -> QuantLinear:
        """Share the weight and bias of `linear`, and quantize its input."""
        wrapped = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        wrapped.weight = linear.weight
        wrapped.bias = linear.bias
        wrapped.act_bits, wrapped.hadamard = act_bits, hadamard
        wrapped.register_buffer("act_clip", torch.ones((), device=linear.weight.device))
        wrapped.stored_bytes = 2 * linear.weight.numel()
        return wrapped

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) float to (..., out_features)."""
        inputs = hadamard(x, self.hadamard)
        if self.act_bits < 16:
            inputs = fake_quant_activation(inputs, self.act_bits, self.act_clip)
        return nn.functional.linear(inputs.to(x.dtype), self.weight, self.bias)


class PackedLinear(nn.Module):
    """A linear of bit planes that runs on the integer engine (arXiv 2408.08554).

    packed: a PackedWeight for the CPU engine, a DeviceWeight for the GPU engine.  Inference only, without gradients.
    """

    def __init__(self, weight: PackedWeight | DeviceWeight, act_bits: int) -> None:
        super().__init__()
        self.packed = weight
        self.act_bits = act_bits
        self.in_features, self.out_features = weight.k, weight.n

    @classmethod
    def pack(
        cls,
        weight: QuantizedWeight,
        precision: Precision,
        bias: Tensor | None,
        act_clip: float = 1.0,
        hadamard: int = 1,
        place: str = "cpu",
    ) -> PackedLinear:
        """Pack integer codes; the float weight is not stored.

        act_clip, hadamard: as in QuantLinear.  place: "cpu", or the CUDA device that stores the weight.
        """
        packed = pack_weight(
            weight.codes.cpu().numpy(),
            precision.stored_bits,
            weight.scale.cpu().numpy(),
            weight.zero.cpu().numpy(),
            group_size=precision.group_size,
            bias=None if bias is None else bias.detach().float().cpu().numpy(),
            act_bits=precision.act_bits,
            act_clip=act_clip,
            hadamard=hadamard,
            spacing=weight.spacing,
        )
        return cls(packed if place == "cpu" else upload(packed, place), precision.act_bits)

    @property
    def stored_bytes(self) -> int:
        """Bytes that the weight occupies in memory."""
        return self.packed.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) of the same dtype.

        The CPU engine computes in float32.

        Raises NotFiniteError on the CPU for an input that is not finite.
        """
        rows = x.detach().reshape(-1, self.in_features)
        if isinstance(self.packed, DeviceWeight):
            y = packed_linear(rows, self.packed, self.act_bits)
        else:
            y = torch.from_numpy(packed_linear(rows.float().contiguous().numpy(), self.packed, self.act_bits))
            y = y.to(x.dtype)
        return y.view(*x.shape[:-1], self.out_features)


def linears_of(parent: nn.Module) -> dict[str, nn.Linear]:
    """The linears below `parent` by dotted name, in module order."""
    return {name: m for name, m in parent.named_modules() if isinstance(m, nn.Linear)}


def replace_module(parent: nn.Module, name: str, module: nn.Module | nn.Parameter) -> None:
    """Replace the submodule or the parameter at the dotted `name` below `parent`."""
    folder, _, last = name.rpartition(".")
    setattr(parent.get_submodule(folder), last, module)


def wrap_linears(block: nn.Module, act_bits: Mapping[str, int], hadamards: Mapping[str, int]) -> None:
    """Replace every linear of the block by a QuantLinear, in place.

    act_bits: of the input of each linear, by name.
    hadamards: block size of the transform by linear name; linears without an entry have none.
    """
    for name, linear in linears_of(block).items():
        replace_module(block, name, QuantLinear.wrap(linear, act_bits[name], hadamards.get(name, 1)))
