"""Linears of a quantized block.

Fake-quantized inputs, packed weights, and replacing modules by name.
"""

import numpy as np
import pytest
import torch
from torch import nn

from abq_core.precision import Precision
from abq_core.quantization.quant_linear import PackedLinear, QuantLinear, linears_of, replace_module, wrap_linears
from abq_core.quantization.quantizers import fake_quant_activation, fake_quant_weight, quantize_weight
from kernels.formats.activations import NotFiniteError


def block() -> nn.Module:
    return nn.ModuleDict({"attn": nn.ModuleDict({"q": nn.Linear(32, 8)}), "mlp": nn.Linear(32, 16, bias=False)})


def test_wrapping_shares_the_parameters_and_sixteen_bits_change_nothing() -> None:
    linear = nn.Linear(32, 8)
    x = torch.randn(3, 5, 32)
    wrapped = QuantLinear.wrap(linear, 16)
    assert wrapped.weight is linear.weight and wrapped.bias is linear.bias
    assert torch.equal(wrapped(x), linear(x))
    assert wrapped.stored_bytes == 2 * 32 * 8


@pytest.mark.parametrize("clip", [1.0, 0.6])
def test_the_input_is_quantized_per_token(clip: float) -> None:
    linear = nn.Linear(32, 8)
    x = torch.randn(3, 5, 32)
    wrapped = QuantLinear.wrap(linear, 4)
    wrapped.act_clip.fill_(clip)
    assert torch.equal(wrapped(x), linear(fake_quant_activation(x, 4, torch.tensor(clip))))


def test_gradients_reach_input_weight_and_clip() -> None:
    wrapped = QuantLinear.wrap(nn.Linear(32, 8), 4)
    wrapped.act_clip = torch.tensor(0.8, requires_grad=True)
    x = torch.randn(5, 32, requires_grad=True)
    wrapped(x).pow(2).sum().backward()
    for tensor in (x, wrapped.weight, wrapped.act_clip):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("text", ["W2A8", "W4A4", "W2*A8", "W3A6g32", "W4A16"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_linear_equals_the_fake_quantized_one(text: str, bias: bool) -> None:
    precision = Precision.parse(text)
    linear = nn.Linear(64, 24, bias=bias).requires_grad_(False)
    packed = PackedLinear.pack(quantize_weight(linear.weight, precision), precision, linear.bias, act_clip=0.9)
    simulated = QuantLinear.wrap(linear, precision.act_bits)
    simulated.weight = nn.Parameter(fake_quant_weight(linear.weight, precision), requires_grad=False)
    simulated.act_clip.fill_(0.9)
    x = torch.randn(2, 7, 64)
    torch.testing.assert_close(packed(x), simulated(x), atol=1e-4, rtol=1e-4)
    assert (packed.in_features, packed.out_features, packed.act_bits) == (64, 24, precision.act_bits)
    assert packed(x.bfloat16()).dtype == torch.bfloat16
    assert packed.stored_bytes == packed.packed.nbytes


def test_an_input_that_is_not_finite_is_refused_by_the_engine() -> None:
    precision = Precision.parse("W4A8")
    linear = nn.Linear(64, 8, bias=False)
    packed = PackedLinear.pack(quantize_weight(linear.weight, precision), precision, None)
    with pytest.raises(NotFiniteError):
        packed(torch.full((1, 64), float(np.nan)))


def test_linears_are_found_and_replaced_by_dotted_name() -> None:
    parent = block()
    assert {name: tuple(m.weight.shape) for name, m in linears_of(parent).items()} == {
        "attn.q": (8, 32),
        "mlp": (16, 32),
    }
    replace_module(parent, "attn.q", nn.Identity())
    replace_module(parent, "mlp", nn.Identity())
    assert linears_of(parent) == {} and isinstance(parent.get_submodule("attn.q"), nn.Identity)


def test_every_linear_of_a_block_is_wrapped_with_its_transform() -> None:
    parent = block()
    wrap_linears(parent, {"attn.q": 8, "mlp": 4}, {"mlp": 16})
    linears = linears_of(parent)
    assert all(isinstance(linear, QuantLinear) for linear in linears.values())
    assert {name: linear.act_bits for name, linear in linears.items()} == {"attn.q": 8, "mlp": 4}
    assert {name: linear.hadamard for name, linear in linears.items()} == {"attn.q": 1, "mlp": 16}
