"""Replace embedding and LM head of a model by quantized ones, simulated or packed."""

import torch
from torch import nn
from transformers import PreTrainedModel

from abq_core.calibration.quantized_block import Engine
from abq_core.mix import ModelPrecision, resolve_tables
from abq_core.models.changed_blocks import sharing_copy
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.modules import StoredEmbedding
from abq_core.models.shape import has_tied_tables
from abq_core.quantization.lm_head import PackedHead, QuantHead
from abq_core.quantization.tables import PackedEmbedding, pack_table, round_embedding, rounded_table


def with_quantized_tables(base: LoadedModel, precision: ModelPrecision) -> LoadedModel:
    """A copy of a model with the simulated tables of `precision`; blocks and all else are shared with `base`.

    Raises PrecisionError if a tied table has two numbers.
    """
    precision = resolve_tables(precision, has_tied_tables(base.model))
    model = sharing_copy(base)
    quantize_tables(model, precision, "simulated")
    return LoadedModel(base.ref, model, base.tokenizer, precision)


@torch.no_grad()
def quantize_tables(model: PreTrainedModel, precision: ModelPrecision, engine: Engine) -> None:
    """Quantize embedding and LM head in place, to the bits that `precision` has for them.

    precision: with the bits that hold for this model (`mix.resolve_tables`). Parameters are replaced, not overwritten:
    other models may share them. A tied table is quantized and stored once.
    """
    quantize = _pack if engine == "packed" else _simulate
    quantize(model, precision.embedding_bits, precision.head_bits, has_tied_tables(model))


def _simulate(model: PreTrainedModel, embedding_bits: int | None, head_bits: int | None, tied: bool) -> None:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    round_embedding(model, embedding_bits)
    if head_bits is not None:
        weight = embedding.weight if tied else rounded_table(head.weight, head_bits)
        model.set_output_embeddings(QuantHead.wrap(head, weight))


def _pack(model: PreTrainedModel, embedding_bits: int | None, head_bits: int | None, tied: bool) -> None:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    table = None
    if embedding_bits is not None:
        table = pack_table(embedding.weight, embedding_bits)
        if isinstance(embedding, StoredEmbedding):  # returns float32, whatever the type of its table
            embedding = nn.Embedding(embedding.num_embeddings, embedding.embedding_dim, device="meta")
        model.set_input_embeddings(PackedEmbedding(embedding, table))
    if head_bits is not None:
        if table is None or not tied:
            table = pack_table(head.weight, head_bits)
        model.set_output_embeddings(PackedHead(table, head.bias))
