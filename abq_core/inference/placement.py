"""Move a model to a GPU or to 16-bit floats, and make the INT8 baseline of a model."""

import copy
from dataclasses import replace

import torch
from torch import nn

from abq_core.inference.decoder import decoder_of
from abq_core.inference.int8_linear import Int8Linear
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.modules import converted_copy
from abq_core.quantization.lm_head import PackedHead
from abq_core.quantization.quant_linear import PackedLinear, linears_of, replace_module
from abq_core.quantization.tables import PackedEmbedding
from kernels.formats.weight import PackedWeight
from kernels.gpu import DeviceWeight, upload


@torch.no_grad()
def to_device(loaded: LoadedModel, device: str, dtype: torch.dtype) -> LoadedModel:
    """A copy of a model on "cpu" or a GPU ("cuda:0"), with its parameters in `dtype`.

    Packed weights are uploaded unchanged, and once if two modules share them.
    Buffers keep their dtype, as in transformers: rotary embeddings are computed from one in float32.
    """
    model = converted_copy(loaded.model, device, dtype)
    uploaded: dict[int, DeviceWeight] = {}
    for module in model.modules():
        if isinstance(module, PackedEmbedding):
            module.dtype = dtype
        if device != "cpu" and isinstance(module, PackedLinear | PackedEmbedding | PackedHead):
            packed = module.packed
            if isinstance(packed, PackedWeight):
                if id(packed) not in uploaded:
                    uploaded[id(packed)] = upload(packed, device)
                module.packed = uploaded[id(packed)]
    return replace(loaded, model=model, decoder=decoder_of(model), weights=None)


@torch.no_grad()
def to_int8(loaded: LoadedModel) -> LoadedModel:
    """A copy of a model with torch's INT8 product in the linears of its blocks."""
    model = copy.deepcopy(loaded.model)
    for block in blocks_of(model):
        for name, linear in linears_of(block).items():
            if type(linear) is nn.Linear:
                replace_module(block, name, Int8Linear.round(linear))
    return replace(loaded, model=model, decoder=decoder_of(model))
