"""Quantized models that run: simulated in floating point, or packed on the integer engine."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.quantized_block import Engine, quantized_block, rounded_artifact, stored_artifact
from abq_core.inference.decoder import decoder_of
from abq_core.inference.embeddings import embeddings_to_bfloat16
from abq_core.inference.int8_linear import Int8Linear
from abq_core.mix import ModelPrecision
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear
from kernels.dispatch import path_for

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


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
        embeddings_to_bfloat16(model)
    return LoadedModel(base.ref, model, base.tokenizer, precision, decoder_of(model))


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
