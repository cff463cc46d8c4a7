"""Modules of a loaded folder: the shapes that weights are read into, and the layers that compute with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import padded_columns, stored_tensors, weight_of
from abq_core.precision import Precision
from abq_core.quantization.lm_head import PackedHead
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear, linears_of, replace_module
from abq_core.quantization.quantizers import QuantizedWeight
from abq_core.quantization.tables import PackedEmbedding
from abq_core.quantization.weight_grid import weight_groups
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.gpu import DeviceWeight, upload

_ROWS = 8192  # of a weight that are unpacked at a time


class StoredWeight(nn.Module):
    """The buffers that a quantized weight is read into; it computes nothing.

    planes, scale, zero, columns: as in `artifacts.stored_tensors`.  act_clip: () float32.  hadamard: () int64.
    """

    def __init__(self, rows: int, k: int, precision: Precision, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.precision = precision
        groups = weight_groups(k, precision)
        shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "planes": ((rows, precision.stored_bits, padded_columns(k) // 8), torch.uint8),
            "scale": ((rows, groups), torch.float32),
            "zero": ((rows, groups), torch.uint8),
            "columns": ((3,), torch.int64),
            "act_clip": ((), torch.float32),
            "hadamard": ((), torch.int64),
        }
        for name, (shape, dtype) in shapes.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype))
        self.bias = bias

    def weight(self) -> QuantizedWeight:
        """The integers that were read; unpacked a few rows at a time, because a vocabulary has many."""
        columns = self.get_buffer("columns").cpu()
        rows = zip(*(self.get_buffer(name).cpu().split(_ROWS) for name in ("planes", "scale", "zero")), strict=True)
        parts = [
            weight_of({"planes": planes, "scale": scale, "zero": zero, "columns": columns})
            for planes, scale, zero in rows
        ]
        codes, scale, zero = (torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "scale", "zero"))
        return QuantizedWeight(codes, scale, zero, parts[0].group_size, parts[0].spacing)

    def linear(self) -> EngineLinear:
        """The layer that computes with this weight."""
        bias = None if self.bias is None else self.bias.detach()
        clip, hadamard = float(self.get_buffer("act_clip")), int(self.get_buffer("hadamard"))
        return EngineLinear(PackedLinear.pack(self.weight(), self.precision, bias, clip, hadamard), self.bias)

    def table(self) -> PackedWeight:
        """The packed rows of an embedding or LM head."""
        weight = self.weight()
        return pack_weight(weight.codes.numpy(), self.precision.stored_bits, weight.scale.numpy(), weight.zero.numpy())


class _OnDevice:
    """A packed weight on the device of its input: uploaded at the first input of a device."""

    packed: PackedWeight | DeviceWeight
    host: PackedWeight

    def follow(self, device: torch.device) -> None:
        """Make `packed` that of the device."""
        on_cpu = isinstance(self.packed, PackedWeight)
        if on_cpu != (device.type == "cpu"):
            self.packed = self.host if device.type == "cpu" else upload(self.host, str(device))


class EngineLinear(_OnDevice, PackedLinear):
    """A linear of a loaded folder on the packed engine. host: its weight in CPU memory, which is saved."""

    def __init__(self, packed: PackedLinear, bias: nn.Parameter | None) -> None:
        assert isinstance(packed.packed, PackedWeight)
        super().__init__(packed.packed, packed.act_bits)
        self.host = packed.packed
        self.bias = bias
        self.register_state_dict_post_hook(_save)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features) of the same dtype."""
        self.follow(x.device)
        return super().forward(x)


class EngineEmbedding(_OnDevice, PackedEmbedding):
    """An embedding of a loaded folder. dtype: of its result."""

    def __init__(self, embedding: nn.Embedding, packed: PackedWeight, dtype: torch.dtype) -> None:
        super().__init__(embedding, packed)
        self.dtype = dtype
        self.host = packed
        self.register_state_dict_post_hook(_save)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) int64 to (..., width)."""
        self.follow(ids.device)
        return super().forward(ids)


class EngineHead(_OnDevice, PackedHead):
    """An LM head of a loaded folder. saves: False if it is the embedding's table."""

    def __init__(self, packed: PackedWeight, bias: nn.Parameter | None, saves: bool) -> None:
        super().__init__(packed, bias)
        self.host = packed
        if saves:
            self.register_state_dict_post_hook(_save)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., width) to logits (..., vocabulary) of the same dtype."""
        self.follow(x.device)
        return super().forward(x).to(x.dtype)


def wrap_unquantized(block: nn.Module, precisions: Mapping[str, Precision]) -> None:
    """Quantize the input of the linears that are not quantized themselves, such as those of W16A8, in place.

    precisions: of the linears, by name.
    """
    for name, linear in linears_of(block).items():
        if type(linear) is nn.Linear and precisions[name].quantizes_activations:
            replace_module(block, name, QuantLinear.wrap(linear, precisions[name].act_bits))


def _save(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Add the tensors of a packed weight to a state dict."""
    packed: PackedWeight = module.host
    k, one = packed.k, packed.segment >= packed.k
    scale, zero = packed.scale, packed.zero
    if packed.group_size is None and not one:  # one scale per row, repeated for each segment
        scale, zero = scale[:, :1], zero[:, :1]
    weight = QuantizedWeight(
        torch.from_numpy(packed.codes().astype(np.int16)),
        torch.from_numpy(scale.copy()),
        torch.from_numpy(zero.astype(np.int16)),
        packed.group_size or k,
        packed.spacing,
    )
    tensors = stored_tensors(weight, packed.planes) | activation_tensors(packed.act_clip, packed.hadamard)
    state.update({f"{prefix}{name}": tensor for name, tensor in tensors.items()})


def activation_tensors(act_clip: float, hadamard: int) -> dict[str, Tensor]:
    """How the input of a linear is treated: act_clip () float32, hadamard () int64."""
    return {"act_clip": torch.tensor(act_clip, dtype=torch.float32), "hadamard": torch.tensor(hadamard)}
