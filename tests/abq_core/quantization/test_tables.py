"""Rounded tables: their grid, and the embedding that looks up packed rows."""

from pathlib import Path

import pytest
import torch
from family_cases import family_model

import abq_core.quantization.tables
from abq_core.models.loading import load_model
from abq_core.precision import Precision
from abq_core.quantization.quantizers import quantize_weight
from abq_core.quantization.tables import PackedEmbedding, pack_table, quantize_table, round_embedding, rounded_table


def table(rows: int = 300, width: int = 48) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, rows)[:, None]


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_table_is_rounded_row_by_row(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantize_weight(table(), Precision(bits, 16))
    monkeypatch.setattr(abq_core.quantization.tables, "_ROWS", 7)  # in parts, the last one shorter
    parts, again = quantize_table(table(), bits), quantize_table(table(), bits)
    for name in ("codes", "scale", "zero"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
        assert torch.equal(getattr(parts, name), getattr(again, name))
    assert torch.equal(rounded_table(table(), bits), whole.dequantize())
    steps = (whole.dequantize() - table()).abs() / whole.scale
    assert steps.max() <= 0.5 + 1e-3 and parts.group_size == 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_embedding_looks_up_the_rounded_rows(dtype: torch.dtype) -> None:
    plain = torch.nn.Embedding.from_pretrained(table(), padding_idx=299)
    packed = PackedEmbedding(plain, pack_table(plain.weight, 5))
    packed.dtype = dtype
    ids = torch.tensor([[0, 299, 17], [17, 16, 15]])
    assert torch.equal(packed(ids), rounded_table(table(), 5)[ids].to(dtype))
    assert packed(ids[0, 0]).shape == (48,) and packed(ids[:, :0]).shape == (2, 0, 48)


def test_an_embedding_that_scales_its_rows_still_does() -> None:
    embedding = family_model("gemma3_text").get_input_embeddings()
    ids = torch.tensor([[0, 7, 299]])
    packed = PackedEmbedding(embedding, pack_table(embedding.weight, 8))
    before = embedding(ids)
    embedding.weight = rounded_table(embedding.weight, 8)
    assert torch.equal(packed(ids), embedding(ids)) and not torch.equal(before, embedding(ids))


def test_rounding_an_embedding_leaves_what_shares_its_table(tiny_opt: Path) -> None:
    model = load_model(str(tiny_opt)).model
    before = model.lm_head.weight.clone()
    round_embedding(model, None)
    assert model.get_input_embeddings().weight is model.lm_head.weight
    round_embedding(model, 3)
    assert torch.equal(model.lm_head.weight, before)
    assert torch.equal(model.get_input_embeddings().weight, rounded_table(before, 3))
