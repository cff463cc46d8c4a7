"""Bit planes of a weight: values, SNR and the integer product, each against a NumPy computation."""

import numpy as np
import pytest
import torch

from abq_core.analysis.bit_planes import TILE, bit_planes
from abq_core.analysis.token_inputs import token_inputs
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.quantizers import quantize_weight
from kernels.dispatch import linear
from kernels.formats.weight import pack_weight

PRECISIONS = ["W4A8", "W2*A8", "W3A4g32", "W8A8", "W2A16"]


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(40, 96, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.fixture
def token() -> torch.Tensor:
    return torch.randn(96, generator=torch.Generator().manual_seed(2)) + 0.3


@pytest.mark.parametrize("name", PRECISIONS)
def test_reading_all_planes_gives_the_rounded_weight_and_fewer_planes_the_middle_of_their_codes(
    weight: torch.Tensor, name: str
) -> None:
    precision = Precision.parse(name)
    lens = bit_planes(weight, precision, row=5, column=64)
    assert lens.planes == precision.stored_bits and lens.rows == 40
    assert sorted(set(lens.tile["row"])) == list(range(5, 5 + TILE))
    assert sorted(set(lens.tile["column"])) == list(range(64, 96))
    quantized = quantize_weight(weight, precision)
    codes = quantized.codes.numpy().astype(float)
    repeats = -(-96 // quantized.scale.shape[1])
    scale, zero = (np.repeat(side.numpy(), repeats, axis=1) for side in (quantized.scale, quantized.zero))
    original = weight.numpy().astype(float)
    at = (lens.tile["row"], lens.tile["column"])
    assert np.array_equal(lens.tile["code"], codes[at])
    for planes in range(1, lens.planes + 1):
        step = 2 ** (lens.planes - planes)
        low = np.floor(codes / step) * step
        middle = (low + np.minimum(low + step - 1, precision.levels - 1)) / 2
        values = (middle - zero) * scale
        assert lens.tile[f"read_{planes}"].to_numpy() == pytest.approx(values[at], abs=1e-5)
        expected = 10 * np.log10((original**2).sum() / ((original - values) ** 2).sum())
        assert lens.steps.set_index("planes").loc[planes, "snr_db"] == pytest.approx(expected, abs=1e-3)
    assert lens.tile[f"read_{lens.planes}"].to_numpy() == pytest.approx(quantized.dequantize().numpy()[at], abs=1e-6)


@pytest.mark.parametrize("name", PRECISIONS)
def test_counts_of_common_bits_give_the_integer_product(weight: torch.Tensor, token: torch.Tensor, name: str) -> None:
    precision = Precision.parse(name)
    product = bit_planes(weight, precision, row=7, column=40, activation=token).product
    assert product is not None
    size = precision.group_size or 96
    columns = slice(40 // size * size, 40 // size * size + size)
    bits = precision.act_bits if precision.act_bits < 16 else 8
    x = token.numpy()
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    act_scale = np.float32(high - low) / np.float32(2**bits - 1)
    act_zero = np.rint(-low / act_scale)
    act = np.clip(np.rint(x / act_scale) + act_zero, 0, 2**bits - 1).astype(np.int64)[columns]
    quantized = quantize_weight(weight, precision)
    codes = quantized.codes[7, columns].numpy().astype(np.int64)
    zero = int(quantized.zero[7, 40 // size])
    assert product.counts.shape == (bits, precision.stored_bits)
    for i in range(bits):
        for j in range(precision.stored_bits):
            assert product.counts[i, j] == np.count_nonzero((act >> i & 1) & (codes >> j & 1))
    assert product.products == int(act @ codes)
    assert product.total == int((act - int(act_zero)) @ (codes - zero))
    assert product.full == pytest.approx(float(x[columns].astype(float) @ weight[7, columns].numpy().astype(float)))
    assert abs(product.value - product.full) < 3


def test_the_engine_computes_the_same_output(weight: torch.Tensor, token: torch.Tensor) -> None:
    precision = Precision.parse("W4A8")
    quantized = quantize_weight(weight, precision)
    packed = pack_weight(quantized.codes.numpy(), 4, quantized.scale.numpy(), quantized.zero.numpy())
    output = linear(token.numpy()[None], packed, 8, threads=1)[0]
    for row in (0, 17, 39):
        product = bit_planes(weight, precision, row=row, activation=token).product
        assert product is not None and product.value == pytest.approx(float(output[row]), rel=1e-5)


def test_a_small_weight_and_places_outside_it_give_the_nearest_tile() -> None:
    weight = torch.linspace(-1, 1, 20 * 64).view(20, 64)
    lens = bit_planes(weight, Precision.parse("W2A8"), row=500, column=500, activation=torch.ones(64))
    assert sorted(set(lens.tile["row"])) == list(range(20))
    assert sorted(set(lens.tile["column"])) == list(range(32, 64))
    assert lens.product is not None and lens.product.columns == 64


def test_the_inputs_of_a_later_block_are_those_of_the_model(base: LoadedModel, ids: torch.Tensor) -> None:
    found = token_inputs(base, ids[:1], 1)
    seen: list[torch.Tensor] = []
    hook = blocks_of(base.model)[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        base.hidden(ids[:1])
    hook.remove()
    assert torch.allclose(found["mlp.down_proj"], seen[0][0], atol=1e-5)
    assert found["self_attn.q_proj"].shape == (ids.shape[1], 64)
