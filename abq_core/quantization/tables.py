"""Embedding and LM head with few bits: rounded to nearest, one scale and zero point per row.

The values follow from the model and the number of bits alone, so a run stores neither table.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from abq_core.precision import FULL_BITS, Precision
from abq_core.quantization.quantizers import QuantizedWeight, quantize_weight
from kernels.dispatch import look_up
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.gpu import DeviceWeight, upload

_ROWS = 8192  # rounded at a time: the temporary copies of a whole table would take several times its size


@torch.no_grad()
def quantize_table(weight: Tensor, bits: int) -> QuantizedWeight:
    """Round a table (rows, width) float to 2^bits levels per row."""
    parts = [quantize_weight(rows.float(), Precision(bits, FULL_BITS)) for rows in weight.split(_ROWS)]
    codes, scale, zero = (torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "scale", "zero"))
    return QuantizedWeight(codes, scale, zero, weight.shape[1])


@torch.no_grad()
def rounded_table(weight: Tensor, bits: int) -> nn.Parameter:
    """The values of `quantize_table`, in float32."""
    parts = [quantize_table(rows, bits).dequantize() for rows in weight.split(_ROWS)]
    return nn.Parameter(torch.cat(parts), requires_grad=False)


def round_embedding(model: Any, bits: int | None) -> None:
    """Give a transformers model a rounded embedding, in place; None leaves it unchanged.

    The module gets a new parameter: an LM head or another model that shares the old one keeps it.
    """
    if bits is not None:
        embedding = model.get_input_embeddings()
        embedding.weight = rounded_table(embedding.weight, bits)


@torch.no_grad()
def pack_table(weight: Tensor, bits: int) -> PackedWeight | DeviceWeight:
    """Round and pack a table for the engine of its device."""
    rounded = quantize_table(weight, bits)
    packed = pack_weight(
        rounded.codes.cpu().numpy(),
        bits,
        rounded.scale.cpu().numpy(),
        rounded.zero.cpu().numpy(),
    )
    return packed if weight.device.type == "cpu" else upload(packed, str(weight.device))


class PackedEmbedding(nn.Module):
    """An embedding of bit planes that dequantizes the rows it looks up. Inference only.

    packed: shared with the LM head if the two are tied.  dtype: of the result.  is_plain: whether rows are used
    unchanged; Gemma's are scaled.
    """

    def __init__(self, embedding: nn.Embedding, packed: PackedWeight | DeviceWeight) -> None:
        super().__init__()
        self.packed = packed
        self.dtype = embedding.weight.dtype
        self._form: nn.Embedding | None = None
        self.is_plain = type(embedding) is nn.Embedding
        if not self.is_plain:
            no_rows = nn.Parameter(torch.empty(0, packed.k), requires_grad=False)
            self._form = copy.deepcopy(embedding, memo={id(embedding.weight): no_rows})
            self._form.padding_idx = None  # a row of the table, not of the rows that were looked up

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (...) int64 to (..., width) of `dtype`."""
        flat = ids.reshape(-1)
        if isinstance(self.packed, DeviceWeight):
            rows = look_up(self.packed, flat, self.dtype)
        else:
            rows = torch.from_numpy(look_up(self.packed, flat.cpu().numpy())).to(ids.device, self.dtype)
        if self._form is None:
            return rows.view(*ids.shape, self.packed.k)
        positions = torch.arange(len(rows), device=ids.device).view(ids.shape)
        found: Tensor = functional_call(self._form, {"weight": rows}, (positions,))
        return found
