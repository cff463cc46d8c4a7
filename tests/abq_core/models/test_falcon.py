"""Falcon through the project's attention and with plain linears."""

import pytest
import torch
from family_cases import CONFIGS, family_model
from torch import nn
from transformers import DynamicCache

from abq_core.models.architectures import blocks_of
from abq_core.models.attention.function import ATTENTION
from abq_core.models.falcon import InterfaceFalconAttention, replace_falcon_linears
from abq_core.models.registration import register_attention
from abq_core.quantization.quant_linear import linears_of

FALCONS = [case for case in CONFIGS if case.startswith("falcon")]


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 300, (2, 14), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", FALCONS)
def test_it_computes_what_transformers_computes(case: str, ids: torch.Tensor) -> None:
    """Compared with sdpa: transformers' eager attention adds ALiBi twice."""
    register_attention()
    model, stock = family_model(case, ATTENTION), family_model(case, "sdpa")
    assert all(isinstance(block.self_attention, InterfaceFalconAttention) for block in blocks_of(model))
    expected = stock(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("case", [case for case in FALCONS if case != "falcon-rw"])
def test_a_cache_gives_the_same_logits(case: str, ids: torch.Tensor) -> None:
    register_attention()
    model = family_model(case, ATTENTION)
    cache = DynamicCache(config=model.config)
    parts = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split([9, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits, atol=1e-4, rtol=1e-4)


def test_linears_become_plain_and_share_their_parameters(ids: torch.Tensor) -> None:
    model = family_model("falcon-rw")  # with biases
    expected = model(ids).logits
    weights = {name: p.data_ptr() for name, p in model.named_parameters()}
    replace_falcon_linears(model)
    assert {type(linear) for linear in linears_of(blocks_of(model)[0]).values()} == {nn.Linear}
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == weights
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)
