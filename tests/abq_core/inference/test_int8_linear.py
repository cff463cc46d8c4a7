"""The INT8 baseline: accuracy, padding, zero rows and stored size."""

import pytest
import torch

from abq_core.inference.int8_linear import Int8Linear


def linear_of(bias: bool = True) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(64, 48, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2, 20), (33,)])
@torch.inference_mode()
def test_outputs_are_close_to_the_float_linear(shape: tuple[int, ...], bias: bool) -> None:
    linear = linear_of(bias)
    x = torch.randn(*shape, 64)
    y = Int8Linear.round(linear)(x)
    assert y.shape == (*shape, 48)
    torch.testing.assert_close(y, linear(x), rtol=0, atol=0.05)


@torch.inference_mode()
def test_the_product_of_the_codes_is_exact() -> None:
    eight = Int8Linear.round(linear_of(bias=False))
    x = torch.randn(3, 64)
    token_scale = x.abs().amax(1, keepdim=True) / 127
    codes = torch.round(x / token_scale).double()
    sums = (codes @ eight.codes.double().T).float()
    assert torch.equal(eight(x), sums * token_scale * eight.scale)


@torch.inference_mode()
def test_zero_rows_and_zero_tokens_have_no_nan() -> None:
    linear = linear_of()
    linear.weight[5] = 0
    eight = Int8Linear.round(linear)
    assert torch.equal(eight(torch.zeros(1, 64))[0], linear.bias)
    assert eight(torch.randn(2, 64))[:, 5].tolist() == [float(linear.bias[5])] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_outputs_have_the_dtype_of_the_inputs(dtype: torch.dtype) -> None:
    eight = Int8Linear.round(linear_of().to(dtype))
    assert eight.scale.dtype == torch.float32 and eight(torch.randn(2, 64, dtype=dtype)).dtype == dtype


def test_a_weight_takes_a_byte_and_a_row_a_scale() -> None:
    assert Int8Linear.round(linear_of()).stored_bytes == 48 * 64 + 4 * 48
