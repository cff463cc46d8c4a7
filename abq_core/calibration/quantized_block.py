"""Blocks of a quantized model: from a run's artifact or rounded, simulated or packed."""

from typing import Literal

import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.block_quantizer import BlockQuantizer
from abq_core.mix import ModelPrecision, block_precisions
from abq_core.models.architectures import architecture_of
from abq_core.models.attention.function import set_kv_bits
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.changed_blocks import copy_with_own_modules
from abq_core.models.loading import LoadedModel
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear, linears_of, replace_module, wrap_linears
from abq_core.quantization.weight_grid import linear_bytes
from abq_core.spec import METHODS

Engine = Literal["simulated", "packed"]


class MissingBlockError(RuntimeError):
    """A block of a run is missing, or its file was changed."""


def stored_artifact(store: CheckpointStore, block: int) -> BlockArtifact:
    """The artifact of one block of a finished run. Raises MissingBlockError."""
    tensors = store.load(block)
    if tensors is None:
        raise MissingBlockError(
            f"Block {block} of this run is missing or damaged. If its job has not finished, resume it; otherwise make "
            "the block again with `abq runs repair RUN`."
        )
    return BlockArtifact.from_tensors(tensors)


def rounded_artifact(base: LoadedModel, block: int, precision: ModelPrecision) -> BlockArtifact:
    """The artifact of one block of `base` rounded to nearest."""
    architecture, layout = architecture_of(base.model), HeadLayout.of(base.model.config)
    with base.block(block) as original:
        precisions = block_precisions(precision, block, linears_of(original))
        quantizer = BlockQuantizer(
            original, architecture, layout, precisions, METHODS["rtn"], compensate=False, input_peaks={}
        )
        return quantizer.artifact()


@torch.no_grad()
def quantized_block(
    original: nn.Module, artifact: BlockArtifact, precision: ModelPrecision, index: int, engine: Engine
) -> nn.Module:
    """A copy of block `index` that computes at `precision` with the weights of `artifact`.

    It has the modules and buffers of `original`, and shares no parameter with it.
    """
    block = copy_with_own_modules(original)
    precisions = block_precisions(precision, index, linears_of(block))
    wrap_linears(block, {name: one.act_bits for name, one in precisions.items()}, artifact.hadamards)
    set_kv_bits(block, precision.kv_bits)
    device = next(original.parameters()).device
    for name, value in artifact.parameters.items():
        _set_parameter(block, name, value.detach().to(device, torch.float32, copy=True))
    for name, clip in artifact.act_clips.items():
        block.get_buffer(f"{name}.act_clip").copy_(clip)
    for name, weight in artifact.weights.items():
        linear = block.get_submodule(name)
        assert isinstance(linear, QuantLinear)
        if engine == "packed":
            settings = linear.act_clip.item(), linear.hadamard, str(device)
            replace_module(block, name, PackedLinear.pack(weight, precisions[name], linear.bias, *settings))
        else:
            _set_parameter(block, f"{name}.weight", weight.dequantize().to(device))
            linear.stored_bytes = linear_bytes(linear.out_features, linear.in_features, precisions[name])
    return block


def _set_parameter(block: nn.Module, name: str, value: Tensor) -> None:
    replace_module(block, name, nn.Parameter(value, requires_grad=False))
