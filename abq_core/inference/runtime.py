"""Build quantized models to run: simulated in floating point, or packed for the engine."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.quantized_block import (
    Engine,
    quantized_block,
    rounded_artifact,
    stored_artifact,
)
from abq_core.inference.decoder import decoder_of
from abq_core.inference.embeddings import embeddings_to_bfloat16
from abq_core.inference.int8_linear import Int8Linear
from abq_core.inference.tables import quantize_tables
from abq_core.mix import ModelPrecision, resolve_tables
from abq_core.models.architectures import blocks_of
from abq_core.models.changed_blocks import sharing_copy, with_changed_blocks
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.lazy_block import LazyBlock, built
from abq_core.models.shape import has_tied_tables
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear, linears_of
from abq_core.quantization.weight_grid import linear_bytes
from kernels.dispatch import path_for

ArtifactOf = Callable[[int], BlockArtifact]  # of the block with this number

_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def quantized_model(
    base: LoadedModel, precision: ModelPrecision, store: CheckpointStore, engine: Engine
) -> LoadedModel:
    """A model with the calibrated blocks of `store` and rounded tables; `base` is not modified.

    engine: "simulated" for dequantized weights and fake-quantized activations; "packed" for bit planes on the integer
    engine.  Raises MissingBlockError if a block is not in the store, PrecisionError if a tied table has two numbers.
    """
    return model_of_artifacts(base, precision, engine, partial(stored_artifact, store))


def rounded_model(base: LoadedModel, precision: ModelPrecision, engine: Engine) -> LoadedModel:
    """A model with weights rounded to nearest, without calibration; `base` is not modified."""
    return model_of_artifacts(base, precision, engine, lambda index: rounded_artifact(base, index, precision))


def streamed_model(base: LoadedModel, precision: ModelPrecision, store: CheckpointStore) -> LoadedModel:
    """The simulated model of `quantized_model`, with one block at a time in memory.

    A block is built whenever it runs: for one pass over many segments, not for generation.
    """
    return streamed_model_of_artifacts(base, precision, partial(stored_artifact, store))


def model_of_artifacts(
    base: LoadedModel, precision: ModelPrecision, engine: Engine, artifact_of: ArtifactOf
) -> LoadedModel:
    """A copy of `base` whose blocks are replaced one by one, then embedding and LM head.

    It shares everything else with `base`. Memory holds one extra block at a time.
    """
    precision = resolve_tables(precision, has_tied_tables(base.model))
    model = sharing_copy(base)
    blocks = blocks_of(model)
    for index, original in enumerate(blocks_of(base.model)):
        blocks[index] = quantized_block(built(original), artifact_of(index), precision, index, engine)
    quantize_tables(model, precision, engine)
    if engine == "packed":
        embeddings_to_bfloat16(model)
    return LoadedModel(base.ref, model, base.tokenizer, precision, decoder_of(model))


def streamed_model_of_artifacts(base: LoadedModel, precision: ModelPrecision, artifact_of: ArtifactOf) -> LoadedModel:
    """The simulated model of `model_of_artifacts`, as in `streamed_model`."""
    precision = resolve_tables(precision, has_tied_tables(base.model))
    model = sharing_copy(base)
    quantize_tables(model, precision, "simulated")
    blocks = blocks_of(model)
    for index, original in enumerate(blocks_of(base.model)):
        blocks[index] = _lazy(original, precision, index, artifact_of)
    return LoadedModel(base.ref, model, base.tokenizer, precision)


def with_simulated_weights(base: LoadedModel, rounded: Callable[[Tensor], Tensor]) -> LoadedModel:
    """A model whose blocks have rounded linears and else full precision, with one block at a time in memory.

    rounded: maps the weight of a linear (rows, k) float32 to the values that it is used with.
    """

    def change(block: nn.Module) -> None:
        for linear in linears_of(block).values():
            linear.weight = nn.Parameter(rounded(linear.weight), requires_grad=False)

    return with_changed_blocks(base, change)


def _lazy(original: nn.Module, precision: ModelPrecision, index: int, artifact_of: ArtifactOf) -> LazyBlock:
    def build() -> nn.Module:
        return quantized_block(built(original), artifact_of(index), precision, index, "simulated")

    linears = linears_of(built(original)).items()
    sizes = (
        linear_bytes(linear.out_features, linear.in_features, precision.of_linear(index, name))
        for name, linear in linears
    )
    return LazyBlock(build, sum(sizes))


def weight_bytes(model: LoadedModel) -> int:
    """Bytes of the weights of the blocks' linears.

    Packed: bytes in memory.  Simulated: bytes of the stored run.  Full precision: two bytes per weight, whatever dtype
    the model was loaded in.
    """
    total = 0
    for module in blocks_of(model.model).modules():
        if isinstance(module, LazyBlock):
            total += module.weight_bytes
        elif isinstance(module, QuantLinear | PackedLinear | Int8Linear):
            total += module.stored_bytes
        elif isinstance(module, nn.Linear):
            total += 2 * module.weight.numel()
    return total


def linear_path(model: LoadedModel) -> str:
    """The kernel path of the blocks' linears for one token, for display."""
    modules = [module for block in blocks_of(model.model) for module in block.modules()]
    packed = [module for module in modules if isinstance(module, PackedLinear)]
    if packed:
        return f"abq {' + '.join(dict.fromkeys(path_for(module.packed, 1, module.act_bits) for module in packed))}"
    if any(isinstance(module, Int8Linear) for module in modules):
        return "torch._int_mm, activations rounded by torch operations"
    dtype = next(module.weight.dtype for module in modules if isinstance(module, nn.Linear))
    suffix = "" if model.precision.is_full else ", activations rounded"
    return f"torch F.linear {_DTYPES[dtype]}{suffix}"
