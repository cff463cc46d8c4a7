"""An import as a model that runs: the base model's modules with the imported values, in float32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.quantized_block import quantized_block
from abq_core.imports.blocks import ImportedPart, stored_part
from abq_core.models.architectures import blocks_of
from abq_core.models.changed_blocks import sharing_copy
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.lazy_block import LazyBlock
from abq_core.models.mapped.modules import restore_plain
from abq_core.precision import FULL, FULL_BITS
from abq_core.quantization.quant_linear import QuantLinear, replace_module


class SymmetricLinear(QuantLinear):
    """A linear whose input is rounded per token to symmetric integers, as compressed-tensors does."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) float to (..., out_features)."""
        return nn.functional.linear(symmetric_per_token(x, self.act_bits), self.weight, self.bias)


def symmetric_per_token(x: Tensor, bits: int) -> Tensor:
    """Round each token of x (..., channels) to integers of `bits` bits times a scale.

    The scale is the token's largest magnitude over (2^bits - 1) / 2.
    """
    scale = x.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
    scale = scale.clamp(min=torch.finfo(x.dtype).tiny)
    return torch.clamp(torch.round(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


def imported_block(original: nn.Module, part: ImportedPart, index: int) -> nn.Module:
    """A copy of block `index` of the base model with the values of an import, in float32."""
    block = quantized_block(original, BlockArtifact({}, part.parameters, {}), FULL, index, "simulated")
    for name, count in part.stored_bytes.items():
        linear: Any = block.get_submodule(name)
        grid = part.activations.get(name)
        kind = SymmetricLinear if grid is not None and grid.symmetric else QuantLinear
        wrapped = kind.wrap(linear, FULL_BITS if grid is None else grid.bits)
        wrapped.stored_bytes = count
        replace_module(block, name, wrapped)
    return block


def imported_model(base: LoadedModel, store: CheckpointStore) -> LoadedModel:
    """The imported model of a finished run; `base` is not modified. Raises MissingBlockError."""
    return _with_blocks(base, store, lambda original, index: imported_block(original, stored_part(store, index), index))


def streamed_import(base: LoadedModel, store: CheckpointStore) -> LoadedModel:
    """`imported_model` with one block at a time in memory: for one pass over many segments, not for generation."""

    def lazy(original: nn.Module, index: int) -> nn.Module:
        size = sum(stored_part(store, index).stored_bytes.values())
        return LazyBlock(lambda: imported_block(original, stored_part(store, index), index), size)

    return _with_blocks(base, store, lazy)


def _with_blocks(
    base: LoadedModel, store: CheckpointStore, block: Callable[[nn.Module, int], nn.Module]
) -> LoadedModel:
    """A copy of `base` with every parameter replaced."""
    model = sharing_copy(base)
    blocks = blocks_of(model)
    for index, original in enumerate(blocks_of(base.model)):
        blocks[index] = block(original, index)
    restore_plain(model)
    outside = stored_part(store, len(blocks)).parameters
    tied = base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight
    for name, value in outside.items():
        values = value.to(base.model.device, torch.float32)
        replace_module(model, name, nn.Parameter(values, requires_grad=False))
    head: Any = model.get_output_embeddings()
    if tied and not any(_owner(model, name) is head for name in outside):
        head.weight = model.get_input_embeddings().weight
    return LoadedModel(base.ref, model, base.tokenizer, FULL)


def _owner(model: nn.Module, name: str) -> nn.Module:
    """The module that has the parameter with this dotted name."""
    return model.get_submodule(name.rpartition(".")[0])
