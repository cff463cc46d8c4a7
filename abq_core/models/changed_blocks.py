"""A model with changed blocks, one at a time in memory. The original is not changed."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.lazy_block import LazyBlock


def sharing_copy(base: LoadedModel) -> PreTrainedModel:
    """A copy of the modules around the blocks, which are those of `base`. Parameters are shared."""
    shared = [*blocks_of(base.model), *base.model.parameters()]
    return copy.deepcopy(base.model, memo={id(part): part for part in shared})


def copy_with_own_modules(block: nn.Module) -> nn.Module:
    """A copy of a block's modules and buffers that shares its parameters."""
    return copy.deepcopy(block, memo={id(parameter): parameter for parameter in block.parameters()})


def with_changed_blocks(base: LoadedModel, change: Callable[[nn.Module], None]) -> LoadedModel:
    """A model with blocks that `change` was called with, one at a time in memory; `base` is not modified.

    change: may replace parameters and set attributes, but must not write into parameters, which are those of `base`.
    """
    model = sharing_copy(base)
    blocks = blocks_of(model)
    for index in range(len(blocks)):
        blocks[index] = LazyBlock(partial(_changed_block, base, index, change), 0)
    return LoadedModel(base.ref, model, base.tokenizer, base.precision)


@torch.no_grad()
def _changed_block(base: LoadedModel, index: int, change: Callable[[nn.Module], None]) -> nn.Module:
    with base.block(index) as original:
        block = copy_with_own_modules(original)
    with torch.autocast(base.model.device.type, enabled=False):  # a block is made inside the model's forward pass
        change(block)
    return block
