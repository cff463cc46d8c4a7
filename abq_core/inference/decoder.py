"""A shorter way for one token than transformers' modules, which every prompt goes through, and any other model.

What a decoder is and which one a model gets; the two that there are stand in `cpu_decoder.py` and `graph_decoder.py`.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from abq_core.inference.cpu_decoder import CpuDecoder
from abq_core.inference.graph_decoder import GraphDecoder, is_steady
from abq_core.inference.int8_linear import Int8Linear
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import Decoder
from abq_core.quantization.quant_linear import PackedLinear
from kernels.formats.weight import PackedWeight

_FAMILIES = frozenset({"llama", "mistral", "qwen2"})
_LINEARS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def decoder_of(model: PreTrainedModel) -> Decoder | None:
    """The decoder of a model whose blocks are of LLaMA's form: packed in memory and else float32, or on a GPU with
    linears that a CUDA graph can hold; None for any other.
    """
    if model.config.model_type not in _FAMILIES or model.config.hidden_act != "silu":
        return None
    linears = [block.get_submodule(name) for block in blocks_of(model) for name in _LINEARS]
    is_float32 = model.base_model.norm.weight.dtype == torch.float32  # as the calls between the products are compiled
    if is_float32 and all(_is_in_memory(linear) for linear in linears):
        return CpuDecoder(model)
    if model.device.type == "cuda" and is_steady(model) and all(_is_on_device(linear) for linear in linears):
        return GraphDecoder(model)
    return None


def _is_in_memory(linear: nn.Module) -> bool:
    return isinstance(linear, PackedLinear) and isinstance(linear.packed, PackedWeight)


def _is_on_device(linear: nn.Module) -> bool:
    """Not of the simulation, whose linears are there to be looked at."""
    if isinstance(linear, PackedLinear):
        return not isinstance(linear.packed, PackedWeight)
    return type(linear) is nn.Linear or isinstance(linear, Int8Linear)
