"""Linears and embeddings with 16-bit weights: the results of float32 ones, and float32 copies."""

import copy

import pytest
import torch
from torch import nn

from abq_core.models.mapped import modules
from abq_core.models.mapped.modules import StoredEmbedding, StoredLinear, converted_copy, has_stored, keep_stored

DTYPES = [torch.bfloat16, torch.float16]


def linear(dtype: torch.dtype, bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    module = nn.Linear(40, 24, bias=bias).requires_grad_(False)
    module.weight = nn.Parameter(module.weight.to(dtype), requires_grad=False)
    return module


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_linear_computes_in_float32(dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module = linear(dtype, bias)
    stored, plain = StoredLinear.wrap(module), copy.deepcopy(module).float()
    x = torch.randn(2, 5, 40)
    assert torch.equal(stored(x), plain(x)) and stored(x).dtype == torch.float32
    one = x[:1, :1]
    torch.testing.assert_close(stored(one), plain(one), rtol=1e-5, atol=1e-6)
    assert stored(one).shape == (1, 1, 24)
    monkeypatch.setattr(modules, "_PART", 40 * 7)
    torch.testing.assert_close(stored(x), plain(x), rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_input_of_a_single_row() -> None:
    module = linear(torch.bfloat16, bias=True)
    x = torch.randn(1, 40, requires_grad=True)
    StoredLinear.wrap(module)(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], module.weight.float().sum(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_modules_are_replaced_and_restored(dtype: torch.dtype) -> None:
    embedding = nn.Embedding(30, 40, padding_idx=3).to(dtype)
    parent = nn.Sequential(embedding, linear(dtype, bias=True), nn.LayerNorm(24)).requires_grad_(False)
    keep_stored(parent)
    assert [type(part) for part in parent] == [StoredEmbedding, StoredLinear, nn.LayerNorm] and has_stored(parent)
    ids = torch.arange(6).view(2, 3)
    assert torch.equal(parent[0](ids), embedding.weight[:6].float().view(2, 3, 40))
    floats = converted_copy(parent, "cpu")
    assert [type(part) for part in floats] == [nn.Embedding, nn.Linear, nn.LayerNorm] and not has_stored(floats)
    assert torch.equal(floats(ids), parent(ids)) and floats[0].padding_idx == 3
    assert floats[2].weight.data_ptr() == parent[2].weight.data_ptr(), "what is float32 already is shared"
    half = converted_copy(parent, "cpu", dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype} and half(ids).dtype == dtype
    assert type(converted_copy(parent[1], "cpu")) is nn.Linear and has_stored(parent)
