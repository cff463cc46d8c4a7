"""The operations of a decode step by torch.

Masks, fused inputs, attention and KV quantization.
"""

import pytest
import torch
from attention_cases import assert_near, attention_by_torch, heads_of, normed, values
from torch import nn

from abq_core.inference.decode_ops import DecodePosition, TorchOps, decode_ops_for, quantize_kv
from kernels.gpu import Gated

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def position_of(position: int, bucket: int, d: int = 16, dtype: torch.dtype = torch.float32) -> DecodePosition:
    cos, sin = (values(d, dtype=dtype, seed=seed) for seed in (6, 7))
    return DecodePosition(torch.tensor([position]), cos, sin, bucket)


@pytest.mark.parametrize(("window", "visible"), [(None, [0, 1, 2, 3]), (2, [2, 3]), (1, [3]), (100, [0, 1, 2, 3])])
def test_the_mask_hides_later_positions_and_those_before_the_window(window: int | None, visible: list[int]) -> None:
    mask = position_of(3, 6).mask(window)
    assert mask.shape == (6,)
    assert [i for i in range(6) if mask[i] == 0] == visible
    assert all(mask[i] == -torch.inf for i in range(6) if i not in visible)


def test_a_mask_is_computed_once_per_window() -> None:
    at = position_of(3, 6)
    assert at.mask(2) is at.mask(2) and at.mask(2) is not at.mask(None)


@pytest.mark.parametrize(
    ("dtype", "window", "kv_bits"),
    [*((dtype, window, None) for dtype in DTYPES for window in (None, 3)), (torch.float32, None, 4)],
)
def test_attention(dtype: torch.dtype, window: int | None, kv_bits: int | None) -> None:
    position, capacity, d = 5, 9, 16
    token = heads_of(4, 2, d, capacity, position, window, kv_bits, dtype)
    token.keys.nan_to_num_(0), token.values.nan_to_num_(0)  # torch multiplies hidden positions by 0
    at = position_of(position, capacity, d, dtype)
    expected, key, value = attention_by_torch(token, at.cos, at.sin, position)
    assert_near(TorchOps().attention(token, at), expected.to(dtype))
    assert_near(token.keys[:, position], key.to(dtype))
    assert_near(token.values[:, position], value.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_added", [True, False])
def test_a_norm_updates_the_residual(with_added: bool, dtype: torch.dtype) -> None:
    x = normed(1, 64, dtype, with_added)
    summed = x.x.clone() if x.added is None else x.x + x.added
    wide = summed.float()
    expected = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + x.epsilon)).to(dtype) * x.norm
    assert_near(TorchOps().materialize(x), expected)
    assert torch.equal(x.x, summed)


def test_linears_with_a_common_input_are_concatenated() -> None:
    linears: list[nn.Module] = [nn.Linear(8, 3), nn.Linear(8, 5)]
    gate_up = values(1, 16)
    gate, up = gate_up.chunk(2, dim=-1)
    x = nn.functional.silu(gate) * up
    with torch.inference_mode():
        found = TorchOps().linears(linears, Gated(gate_up))
        assert torch.equal(found, torch.cat([linear(x) for linear in linears], dim=-1))
        assert torch.equal(TorchOps().linears(linears[:1], x), linears[0](x))


def test_keys_and_values_are_quantized_to_their_levels() -> None:
    x = values(3, 16)
    assert quantize_kv(x, None) is x
    assert all(len(row.unique()) <= 4 for row in quantize_kv(x, 2))
    torch.testing.assert_close(quantize_kv(x, 8), x, rtol=0, atol=float(x.max() - x.min()) / 255)


def test_the_cpu_uses_torch() -> None:
    assert isinstance(decode_ops_for(torch.device("cpu"), 64), TorchOps)
