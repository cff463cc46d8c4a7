"""The three linears of a quantized block: fake-quantized (calibration, simulation) and packed (the integer engine)."""

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
    """A linear whose input is fake-quantized per token; its weight is whatever it was given, dequantized or not.

    `act_bits` 16 does not quantize it.  `act_clip`: () float32 in (0, 1], factor on each token's range.  `hadamard`:
    how many channels at a time the transform before takes, which the weight's columns went through, too; 1 for none.
    `stored_bytes` is what the integer form of the weight occupies (codes, scales, zero points), or two bytes a weight
    where it is not quantized.
    """

    act_bits: int
    act_clip: Tensor
    hadamard: int
    stored_bytes: int

    @classmethod
    def wrap(cls, linear: nn.Linear, act_bits: int, hadamard: int = 1) -> QuantLinear:
        """The same weight and bias (shared, not copied) with a quantized input."""
        wrapped = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        wrapped.weight = linear.weight
        wrapped.bias = linear.bias
        wrapped.act_bits, wrapped.hadamard = act_bits, hadamard
        wrapped.register_buffer("act_clip", torch.ones((), device=linear.weight.device))
        wrapped.stored_bytes = 2 * linear.weight.numel()
        return wrapped

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) float -> (..., out_features)."""
        seen = hadamard(x, self.hadamard)
        if self.act_bits < 16:
            seen = fake_quant_activation(seen, self.act_bits, self.act_clip)
        return nn.functional.linear(seen.to(x.dtype), self.weight, self.bias)


class PackedLinear(nn.Module):
    """A linear that holds only bit planes and runs on the integer engine of `kernels` (arXiv 2408.08554).

    `packed`: in memory for the CPU engine, or on a GPU for that of the GPU.  Inference only: no gradient comes out.
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
        """Pack integer codes; nothing of the float weight is kept.

        act_clip: factor on each token's range.  hadamard: as QuantLinear has it.
        place: "cpu", or the CUDA device that is to hold the weight.
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
        """Bytes that the weight really holds in memory."""
        return self.packed.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features) of the same dtype; the CPU engine computes in float32.

        Raises NotFiniteError on the CPU.
        """
        rows = x.detach().reshape(-1, self.in_features)
        if isinstance(self.packed, DeviceWeight):
            y = packed_linear(rows, self.packed, self.act_bits)
        else:
            y = torch.from_numpy(packed_linear(rows.float().contiguous().numpy(), self.packed, self.act_bits))
            y = y.to(x.dtype)
        return y.view(*x.shape[:-1], self.out_features)


def linears_of(parent: nn.Module) -> dict[str, nn.Linear]:
    """The linears below `parent` by their dotted names, in the order of the module."""
    return {name: m for name, m in parent.named_modules() if isinstance(m, nn.Linear)}


def replace_module(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` at the dotted name below `parent`."""
    folder, _, last = name.rpartition(".")
    setattr(parent.get_submodule(folder), last, module)


def wrap_linears(block: nn.Module, act_bits: int, hadamards: Mapping[str, int]) -> None:
    """Make every linear of the block a QuantLinear, in place.

    hadamards: of each linear behind a Hadamard transform, how many channels that takes at a time.
    """
    for name, linear in linears_of(block).items():
        replace_module(block, name, QuantLinear.wrap(linear, act_bits, hadamards.get(name, 1)))
