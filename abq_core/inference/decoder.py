"""Choose a model's decoder: a faster path for single tokens than transformers' modules.

Prompts always run through the modules, and so does every token of a model without a decoder.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from abq_core.inference.block_parts import parts_of
from abq_core.inference.cpu_decoder import CpuDecoder
from abq_core.inference.graph_decoder import GraphDecoder, has_fixed_rope
from abq_core.inference.int8_linear import Int8Linear
from abq_core.models.loading import Decoder
from abq_core.quantization.quant_linear import PackedLinear
from kernels.formats.weight import PackedWeight
from kernels.token_program import SILU, is_runnable

_GRAPH_FAMILIES = frozenset({"llama", "mistral", "qwen2"})


def decoder_of(model: PreTrainedModel) -> Decoder | None:
    """The decoder of a model, or None.

    `CpuDecoder` if all linears are packed in memory, on paths that work here, and the rest is float32; `GraphDecoder`
    if the model has LLaMA's form, is on a GPU, and a CUDA graph can hold its linears.
    """
    parts = parts_of(model)
    if parts is None:
        return None
    weight = parts.final_norm.weight  # None for a layer norm without learned values
    is_float32 = weight is None or weight.dtype == torch.float32  # the dtype of the compiled functions
    if is_float32 and all(_fits_a_program(linear) for linear in parts.linears):
        return CpuDecoder(model, parts)
    has_llama_form = model.config.model_type in _GRAPH_FAMILIES and parts.activation == SILU
    if has_llama_form and model.device.type == "cuda" and has_fixed_rope(model):
        return GraphDecoder(model) if all(_fits_a_graph(linear) for linear in parts.linears) else None
    return None


def _fits_a_program(linear: nn.Module) -> bool:
    if not (isinstance(linear, PackedLinear) and isinstance(linear.packed, PackedWeight)):
        return False
    return is_runnable(linear.packed, linear.act_bits)


def _fits_a_graph(linear: nn.Module) -> bool:
    """True for 16-bit, INT8 and GPU-packed linears; False for a simulation."""
    if isinstance(linear, PackedLinear):
        return not isinstance(linear.packed, PackedWeight)
    return type(linear) is nn.Linear or isinstance(linear, Int8Linear)
