"""Quantized models that run: simulated in floating point, or packed on the integer engine."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from abq_core.architectures import architecture_of, blocks_of
from abq_core.artifacts import BlockArtifact, CheckpointStore
from abq_core.attention import set_kv_bits
from abq_core.balance import HeadLayout
from abq_core.block_quantizer import BlockQuantizer
from abq_core.decoder import decoder_of
from abq_core.int8_linear import Int8Linear
from abq_core.mix import ModelPrecision, block_precisions
from abq_core.models import LoadedModel
from abq_core.precision import Precision
from abq_core.quant_linear import PackedLinear, QuantLinear, linears_of, replace_module, wrap_linears
from abq_core.quantizers import QuantizedWeight
from abq_core.spec import METHODS
from abq_core.tables import halve_tables
from kernels.dispatch import path_for

Engine = Literal["simulated", "packed"]
_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class MissingBlockError(RuntimeError):
    """A run lacks a block, or what is stored of it was changed."""


def quantized_model(
    base: LoadedModel, precision: ModelPrecision, store: CheckpointStore, engine: Engine
) -> LoadedModel:
    """A new model with the blocks of `store`; `base` stays as it was.

    simulated: dequantized weights and fake-quantized activations.  packed: the linears hold only bit planes.
    Raises MissingBlockError where a block is not in the store.
    """
    return _with_blocks(base, precision, engine, lambda index: stored_artifact(store, index))


def rounded_model(base: LoadedModel, precision: ModelPrecision, engine: Engine) -> LoadedModel:
    """Round to nearest, no calibration: what a precision does by itself."""
    return _with_blocks(base, precision, engine, lambda index: rounded_artifact(base, index, precision))


def _with_blocks(
    base: LoadedModel, precision: ModelPrecision, engine: Engine, artifact_of: Callable[[int], BlockArtifact]
) -> LoadedModel:
    """A copy of `base` whose blocks are replaced one by one, so that memory holds one spare block at a time."""
    originals = blocks_of(base.model)
    model = copy.deepcopy(base.model, memo={id(block): block for block in originals})
    blocks = blocks_of(model)
    for index, original in enumerate(originals):
        blocks[index] = quantized_block(original, artifact_of(index), precision, index, engine)
    if engine == "packed":
        halve_tables(model)
    return LoadedModel(base.ref, model, base.tokenizer, precision, decoder_of(model))


def stored_artifact(store: CheckpointStore, block: int) -> BlockArtifact:
    """One block of a finished run. Raises MissingBlockError."""
    tensors = store.load(block)
    if tensors is None:
        raise MissingBlockError(f"Block {block} is not in this run. Resume the run to finish it.")
    return BlockArtifact.from_tensors(tensors)


def rounded_artifact(base: LoadedModel, block: int, precision: ModelPrecision) -> BlockArtifact:
    """One block rounded to nearest."""
    architecture, layout = architecture_of(base.model), HeadLayout.of(base.model.config)
    original = blocks_of(base.model)[block]
    precisions = block_precisions(precision, block, linears_of(original))
    quantizer = BlockQuantizer(
        original, architecture, layout, precisions, METHODS["rtn"], compensate=False, input_peaks={}
    )
    return quantizer.artifact()


@torch.no_grad()
def quantized_block(
    original: nn.Module, artifact: BlockArtifact, precision: ModelPrecision, index: int, engine: Engine
) -> nn.Module:
    """A copy of block `index` of a model that computes at `precision` with the weights of `artifact`."""
    block = copy.deepcopy(original)
    wrap_linears(block, precision.act_bits, artifact.hadamards)
    set_kv_bits(block, precision.kv_bits)
    for name, value in artifact.parameters.items():
        block.get_parameter(name).copy_(value)
    for name, clip in artifact.act_clips.items():
        block.get_buffer(f"{name}.act_clip").copy_(clip)
    for name, weight in artifact.weights.items():
        linear = block.get_submodule(name)
        assert isinstance(linear, QuantLinear)
        own = precision.of_linear(index, name)
        if engine == "packed":
            settings = linear.act_clip.item(), linear.hadamard, str(linear.weight.device)
            replace_module(block, name, PackedLinear.pack(weight, own, linear.bias, *settings))
        else:
            linear.weight.copy_(weight.dequantize())
            linear.stored_bytes = _stored_bytes(weight, own)
    return block


def weight_bytes(model: LoadedModel) -> int:
    """Bytes that the weights of the blocks' linears occupy: what the packed engine holds, what a run stores, or two
    bytes a weight in full precision (FP16, as the file has it, whatever type it was loaded as).
    """
    total = 0
    for module in blocks_of(model.model).modules():
        if isinstance(module, QuantLinear | PackedLinear | Int8Linear):
            total += module.stored_bytes
        elif isinstance(module, nn.Linear):
            total += 2 * module.weight.numel()
    return total


def linear_path(model: LoadedModel) -> str:
    """What the linears of the blocks run on for one token."""
    modules = [module for block in blocks_of(model.model) for module in block.modules()]
    packed = [module for module in modules if isinstance(module, PackedLinear)]
    if packed:
        return f"abq {' + '.join(dict.fromkeys(path_for(module.packed, 1, module.act_bits) for module in packed))}"
    if any(isinstance(module, Int8Linear) for module in modules):
        return "torch._int_mm, activations rounded by torch operations"
    dtype = next(module.weight.dtype for module in modules if isinstance(module, nn.Linear))
    rounded = "" if model.precision.is_full else ", activations rounded"
    return f"torch F.linear {_DTYPES[dtype]}{rounded}"


def _stored_bytes(weight: QuantizedWeight, precision: Precision) -> int:
    """Bit planes, a float32 scale and a one-byte zero point per group."""
    return weight.codes.numel() * precision.stored_bits // 8 + 5 * weight.scale.numel()
