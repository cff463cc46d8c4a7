"""The quantized LM head: an input in two parts, the same on both engines."""

import pytest
import torch

from abq_core.quantization.lm_head import PackedHead, QuantHead, in_two_parts
from abq_core.quantization.quantizers import fake_quant_activation
from abq_core.quantization.tables import pack_table, rounded_table
from kernels.formats.activations import NotFiniteError


def hidden(tokens: int, width: int) -> torch.Tensor:
    """Tokens with outlier channels, as the last hidden states of real models."""
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(tokens))
    x[:, ::37] *= 50
    return x


def heads(rows: int, width: int, bits: int, bias: bool) -> tuple[torch.nn.Linear, QuantHead, PackedHead]:
    torch.manual_seed(rows + bits)
    plain = torch.nn.Linear(width, rows, bias=bias).requires_grad_(False)
    return (
        plain,
        QuantHead.wrap(plain, rounded_table(plain.weight, bits)),
        PackedHead(pack_table(plain.weight, bits), plain.bias),
    )


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    ("tokens", "rows", "width"), [(1, 300, 64), (1, 17, 33), (2, 16, 100), (25, 301, 200), (200, 40, 64)]
)
def test_the_packed_head_computes_what_the_simulation_says(bits: int, tokens: int, rows: int, width: int) -> None:
    plain, simulated, packed = heads(rows, width, bits, bias=tokens > 1)
    x = hidden(tokens, width)
    expected = simulated(x)
    close = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(packed(x), expected, **close)
    assert packed.out_features == rows and not torch.equal(expected, plain(x))
    exact = torch.nn.functional.linear(
        x.double(), simulated.weight.double(), None if plain.bias is None else plain.bias.double()
    )
    torch.testing.assert_close(expected.double(), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


def test_two_parts_have_16_bits() -> None:
    x = hidden(50, 128)
    first, rest = in_two_parts(x)
    assert torch.equal(first, fake_quant_activation(x, 8))
    error = (x - first - fake_quant_activation(rest, 8)).abs().amax(-1)
    assert (error <= 0.51 * (rest.amax(-1) - rest.amin(-1)) / 255).all()
    assert (error < (x - first).abs().amax(-1) / 100).all()


def test_any_leading_shape_and_16_bit_inputs() -> None:
    _, simulated, packed = heads(40, 64, 8, bias=True)
    x = hidden(6, 64)
    assert torch.equal(packed(x.view(2, 3, 64)), packed(x).view(2, 3, 40)) and packed(x[0]).shape == (40,)
    half = packed(x.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, simulated(x.bfloat16().float()), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_refused(value: float) -> None:
    _, _, packed = heads(40, 64, 8, bias=False)
    x = hidden(3, 64)
    x[1, 5] = value
    with pytest.raises(NotFiniteError):
        packed(x)
