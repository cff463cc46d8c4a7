"""Embedding and LM head of a packed model in bfloat16, if that changes no value.

This is for tables that the precision leaves at 16 bits. Most checkpoints are in 16 bits, so half of every float32 would
be zeros, and each token reads the whole LM head.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from abq_core.models.mapped.modules import StoredEmbedding, StoredLinear
from abq_core.quantization.lm_head import PackedHead
from abq_core.quantization.tables import PackedEmbedding

_ROWS = 4096  # rows that are compared at a time


@torch.no_grad()
def embeddings_to_bfloat16(model: PreTrainedModel) -> None:
    """Store embedding and LM head in bfloat16, in place, if no value changes. Packed ones stay packed.

    Only for float32 models on the CPU.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    table = head_table = None
    if not isinstance(embedding, PackedEmbedding | StoredEmbedding):
        table = _exact_bfloat16(embedding.weight) if type(embedding) is nn.Embedding else None
        if table is None:
            return
    if not isinstance(head, PackedHead | StoredLinear):
        if type(head) is nn.Linear and head.bias is None:
            head_table = table if head.weight is getattr(embedding, "weight", None) else _exact_bfloat16(head.weight)
        if head_table is None:
            return
    if table is not None:
        embedding.weight = table
        model.set_input_embeddings(StoredEmbedding.wrap(embedding))
    if head_table is not None:
        head.weight = head_table
        model.set_output_embeddings(StoredLinear.wrap(head))


def _exact_bfloat16(weight: Tensor) -> nn.Parameter | None:
    """The weight in bfloat16.

    None if that changes a value or the weight is not float32 on the CPU.
    """
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    half = weight.to(torch.bfloat16)
    exact = all(torch.equal(a.float(), b) for a, b in zip(half.split(_ROWS), weight.split(_ROWS), strict=True))
    return nn.Parameter(half, requires_grad=False) if exact else None
