"""Concatenated linears.

The same outputs, no weight stored twice, and linears that differ left unchanged.
"""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from abq_core.inference.int8_linear import Int8Linear
from abq_core.inference.linear_stacks import stack_linears
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import PackedLinear
from abq_core.quantization.quantizers import QuantizedWeight

K = 64


def floats(rows: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(K, rows, bias=bias)


def int8(rows: int, bias: bool = True) -> Int8Linear:
    return Int8Linear.round(floats(rows, bias))


def packed(rows: int, bias: bool = True, precision: str = "W3A8") -> PackedLinear:
    parsed = Precision.parse(precision)
    codes = torch.randint(0, parsed.levels, (rows, K), dtype=torch.int16)
    weight = QuantizedWeight(codes, torch.rand(rows, 1) + 0.1, torch.full((rows, 1), 3, dtype=torch.int16), K)
    return PackedLinear.pack(weight, parsed, torch.randn(rows) if bias else None)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [floats, int8, packed])
@torch.inference_mode()
def test_one_linear_with_the_rows_of_all(make: Callable[..., nn.Module], bias: bool) -> None:
    torch.manual_seed(0)
    linears, x = [make(rows, bias) for rows in (32, 16, 7)], torch.randn(2, K)
    expected = torch.cat([linear(x) for linear in linears], dim=-1)
    (whole,) = stack_linears(linears)
    assert type(whole) is type(linears[0]) and whole.out_features == 55
    torch.testing.assert_close(whole(x), expected)
    torch.testing.assert_close(torch.cat([linear(x) for linear in linears], dim=-1), expected)
    (again,) = stack_linears(linears)  # views of a whole can be stacked again
    torch.testing.assert_close(again(x), expected)


@pytest.mark.parametrize("make", [floats, int8])
def test_no_weight_is_stored_twice(make: Callable[..., nn.Module]) -> None:
    linears = [make(32, False), make(16, False)]
    (whole,) = stack_linears(linears)
    kept = [next(iter(module.state_dict().values())) for module in (whole, *linears)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in kept}) == 1


def test_linears_that_differ_are_not_stacked() -> None:
    for pair in (
        [floats(32, True), floats(16, False)],
        [int8(32, True), int8(16, False)],
        [floats(32), int8(16)],
        [packed(32, precision="W3A8"), packed(16, precision="W3A4")],
        [packed(32, precision="W3A8"), packed(16, precision="W2A8")],
        [floats(32)],
    ):
        assert stack_linears(pair) == pair
