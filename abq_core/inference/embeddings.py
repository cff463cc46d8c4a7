"""Embedding and LM head of a packed model in bfloat16, if that changes no value.

This is for tables that the precision leaves at 16 bits. Most checkpoints are in 16 bits, so half of every float32 would
be zeros, and each token reads the whole LM head.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from abq_core.quantization.lm_head import PackedHead
from abq_core.quantization.tables import PackedEmbedding
from kernels.decode_ops import bfloat16_product

_ROWS = 4096  # rows of the LM head converted to float32 at a time


class Bfloat16Embedding(nn.Embedding):
    """An embedding stored in bfloat16 that returns float32."""

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) int64 -> (..., width) float32."""
        return super().forward(ids).float()


class Bfloat16Head(nn.Module):
    """An LM head stored in bfloat16; inputs, sums and outputs are float32. CPU, inference only."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.out_features = len(weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) float32 -> (..., vocabulary) float32."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) == 1:
            bits = self.weight.detach().view(torch.uint16).numpy()
            return torch.from_numpy(bfloat16_product(bits, rows[0].numpy())).view(*x.shape[:-1], -1)
        parts = [rows @ part.float().T for part in self.weight.split(_ROWS)]
        return torch.cat(parts, dim=-1).view(*x.shape[:-1], -1)


@torch.no_grad()
def embeddings_to_bfloat16(model: PreTrainedModel) -> None:
    """Store embedding and LM head in bfloat16, in place, if no value changes. Packed ones stay packed.

    Only for float32 models on the CPU.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    table = head_table = None
    if not isinstance(embedding, PackedEmbedding):
        table = _exact_bfloat16(embedding.weight) if type(embedding) is nn.Embedding else None
        if table is None:
            return
    if not isinstance(head, PackedHead):
        if type(head) is nn.Linear and head.bias is None:
            head_table = table if head.weight is getattr(embedding, "weight", None) else _exact_bfloat16(head.weight)
        if head_table is None:
            return
    if table is not None:
        rows, width = table.shape
        smaller = Bfloat16Embedding(rows, width, embedding.padding_idx, device="meta", dtype=table.dtype)
        smaller.weight = table
        model.set_input_embeddings(smaller)
    if head_table is not None:
        model.set_output_embeddings(Bfloat16Head(head_table))


def restore_embeddings(model: PreTrainedModel) -> None:
    """Replace the modules of `embeddings_to_bfloat16` by torch's, in place.

    The weights stay in bfloat16.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, Bfloat16Embedding):
        rows, width = embedding.weight.shape
        plain = nn.Embedding(rows, width, embedding.padding_idx, device="meta")
        plain.weight = embedding.weight
        model.set_input_embeddings(plain)
    if isinstance(head, Bfloat16Head):
        rows, width = head.weight.shape
        linear = nn.Linear(width, rows, bias=False, device="meta")
        linear.weight = head.weight
        model.set_output_embeddings(linear)


def _exact_bfloat16(weight: Tensor) -> nn.Parameter | None:
    """The weight in bfloat16.

    None if that changes a value or the weight is not float32 on the CPU.
    """
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return None
    half = weight.to(torch.bfloat16)
    exact = all(torch.equal(a.float(), b) for a, b in zip(half.split(_ROWS), weight.split(_ROWS), strict=True))
    return nn.Parameter(half, requires_grad=False) if exact else None
