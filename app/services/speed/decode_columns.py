"""The models that a decode benchmark compares, on the CPU or a GPU.

The engine's models, and torch's in several dtypes.
"""

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from abq_core.inference.embeddings import embeddings_to_bfloat16
from abq_core.inference.int8_linear import Int8Linear
from abq_core.inference.placement import to_device, to_int8
from abq_core.inference.runtime import linear_path, weight_bytes
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.modules import converted_copy
from app.services.errors import ServiceError
from app.services.registry import ModelRegistry

TORCH_COLUMNS = ("fp32", "bf16", "int8")


def cpu_column(registry: ModelRegistry, column: str, ref: str) -> LoadedModel:
    """The model of a column on the CPU: fp32, bf16, int8 (torch), a precision or a run id."""
    full = registry.full(ref)
    if column == "bf16":
        return bf16(full)
    if column == "int8":
        return dynamic_int8(full)
    return fp32(full) if column == "fp32" else registry.column(column, ref)


def gpu_column(registry: ModelRegistry, column: str, ref: str, place: str) -> LoadedModel:
    """The model of a column on a GPU.

    Everything but the blocks' linears is float16, or bfloat16 in column bf16.
    place: torch device, such as "cuda:0". Raises ServiceError for fp32.
    """
    if column == "fp32":
        raise ServiceError("fp32 is not a column on a GPU: use fp16.")
    if column == "bf16":
        return to_device(registry.full(ref), place, torch.bfloat16)
    if column in ("fp16", "int8"):
        full = to_device(registry.full(ref), place, torch.float16)
        return full if column == "fp16" else to_int8(full)
    return to_device(registry.column(column, ref), place, torch.float16)


def fp32(full: LoadedModel) -> LoadedModel:
    """The model with torch's linears in float32: a large checkpoint is otherwise read in its own dtype."""
    return replace(full, model=converted_copy(full.model, full.model.device), weights=None)


def bf16(full: LoadedModel) -> LoadedModel:
    """The model with its weights in bfloat16, on its own device."""
    return to_device(full, str(full.model.device), torch.bfloat16)


def dynamic_int8(full: LoadedModel) -> LoadedModel:
    """The model with torch's dynamic int8 in the blocks' linears.

    Embedding and LM head as in the engine's models.
    """
    model = converted_copy(full.model, full.model.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its quantized tensors
        for block in blocks_of(model):
            torch.ao.quantization.quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8, inplace=True)
    embeddings_to_bfloat16(model)
    return replace(full, model=model, weights=None)


def path_of(model: LoadedModel) -> str:
    """The kernel path of the blocks' linears, and on a GPU whether a CUDA graph launches them."""
    if _quantized_by_torch(model):
        return f"torch dynamic int8 ({torch.backends.quantized.engine})"
    launched = ""
    if model.model.device.type == "cuda":
        launched = ", kernel by kernel" if model.decoder is None else ", in a CUDA graph"
    return linear_path(model) + launched


def held_bytes(model: LoadedModel) -> int:
    """Bytes in memory of the weights of the blocks' linears."""
    if by_torch := _quantized_by_torch(model):
        return sum(m.weight().numel() + 4 * m.out_features for m in by_torch)
    modules = [module for block in blocks_of(model.model) for module in block.modules()]
    if model.precision.is_full and not any(isinstance(module, Int8Linear) for module in modules):
        return sum(m.weight.nbytes for m in modules if isinstance(m, nn.Linear))
    return weight_bytes(model)


def _quantized_by_torch(model: LoadedModel) -> list[Any]:
    return [m for m in blocks_of(model.model).modules() if isinstance(m, torch.ao.nn.quantized.Linear)]
