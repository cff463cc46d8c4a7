"""Choose a model's decoder: a faster path for single tokens than transformers' modules.

Prompts always run through the modules, and so does every token of a model without a decoder.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from abq_core.inference.cpu_decoder import CpuDecoder
from abq_core.inference.graph_decoder import GraphDecoder, has_fixed_rope
from abq_core.inference.int8_linear import Int8Linear
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import Decoder
from abq_core.quantization.quant_linear import PackedLinear
from kernels.formats.weight import PackedWeight
from kernels.token_program import is_runnable

_FAMILIES = frozenset({"llama", "mistral", "qwen2"})
_LINEARS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def decoder_of(model: PreTrainedModel) -> Decoder | None:
    """The decoder of a model with LLaMA-style blocks, or None.

    `CpuDecoder` if all linears are packed in memory, on paths that work here, and the rest is float32; `GraphDecoder`
    if the model is on a GPU and a CUDA graph can hold its linears.
    """
    if model.config.model_type not in _FAMILIES or model.config.hidden_act != "silu":
        return None
    linears = [block.get_submodule(name) for block in blocks_of(model) for name in _LINEARS]
    is_float32 = model.base_model.norm.weight.dtype == torch.float32  # the dtype of the compiled functions
    if is_float32 and all(_fits_a_program(linear) for linear in linears):
        return CpuDecoder(model)
    if model.device.type == "cuda" and has_fixed_rope(model) and all(_fits_a_graph(linear) for linear in linears):
        return GraphDecoder(model)
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
