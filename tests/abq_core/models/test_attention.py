"""The attention function against its formula.

Grouped queries, masks, soft caps, quantized K and V, recorded maps.
"""

import pytest
import torch
from family_cases import family_model
from torch import Tensor, nn

from abq_core.models.architectures import blocks_of
from abq_core.models.attention.function import AttentionError, abq_attention, attention_maps, set_kv_bits
from abq_core.quantization.quantizers import fake_quant_activation


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query of 4 heads, key and value of 2, and a causal mask: 5 queries over 7 keys."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, n, 8, generator=generator) for heads, n in ((4, 5), (2, 7), (2, 7)))
    mask = torch.full((5, 7), torch.finfo(torch.float32).min).triu(3).view(1, 1, 5, 7)
    return query, key, value, mask


def by_formula(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, cap: float | None) -> Tensor:
    """Attention of one head at a time; returns (batch, q, heads, d)."""
    output = torch.zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3])
    for batch in range(query.shape[0]):
        for head in range(query.shape[1]):
            kv_head = head // (query.shape[1] // key.shape[1])
            scores = query[batch, head] @ key[batch, kv_head].T * scale
            if cap is not None:
                scores = cap * torch.tanh(scores / cap)
            output[batch, :, head] = torch.softmax(scores + mask[0, 0], -1) @ value[batch, kv_head]
    return output


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("recorded", [False, True])
def test_the_output_equals_the_formula(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor], cap: float | None, recorded: bool
) -> None:
    query, key, value, mask = tensors
    module = nn.Module()
    parent = nn.ModuleDict({"attn": module})
    with attention_maps(parent, recorded) as maps:
        output, weights = abq_attention(module, query, key, value, mask, scaling=0.3, softcap=cap)
    assert weights is None and len(maps) == recorded
    torch.testing.assert_close(output, by_formula(query, key, value, mask, 0.3, cap))
    if recorded:
        assert maps[0].shape == (2, 4, 5, 7)
        torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 4, 5))
        assert maps[0][..., 0, 3:].count_nonzero() == 0


def test_a_mask_longer_than_the_keys_is_cut(tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    query, key, value, mask = tensors
    expected, _ = abq_attention(nn.Module(), query, key, value, mask)
    longer = torch.nn.functional.pad(mask, (0, 4), value=float(mask.min()))
    assert torch.equal(abq_attention(nn.Module(), query, key, value, longer)[0], expected)


def test_kv_bits_quantize_key_and_value_per_token_and_head(tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    query, key, value, mask = tensors
    module = nn.Module()
    set_kv_bits(nn.ModuleDict({"attn": module}), 3)
    quantized = abq_attention(module, query, key, value, mask)[0]
    rounded = [fake_quant_activation(x, 3) for x in (key, value)]
    assert torch.equal(quantized, abq_attention(nn.Module(), query, *rounded, mask)[0])
    set_kv_bits(nn.ModuleDict({"attn": module}), None)
    assert torch.equal(
        abq_attention(module, query, key, value, mask)[0], abq_attention(nn.Module(), query, key, value, mask)[0]
    )


def test_recording_ends_with_the_context(tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    query, key, value, mask = tensors
    module = nn.Module()
    with pytest.raises(ZeroDivisionError), attention_maps(nn.ModuleDict({"attn": module})) as maps:
        raise ZeroDivisionError
    abq_attention(module, query, key, value, mask)
    assert maps == []


def test_attention_that_bypasses_the_function_is_named() -> None:
    block = blocks_of(family_model("falcon"))[0]
    with pytest.raises(AttentionError, match="recorded no attention map"), attention_maps(block):
        pass
    with pytest.raises(AttentionError, match="kv4"):
        set_kv_bits(block.mlp, 4)
    set_kv_bits(block.mlp, None)
