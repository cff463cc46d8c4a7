"""Activation quantization: the engine's, NumPy's and torch's return the same bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels.cpu.arguments import Tokens
from kernels.cpu.quantize import quantize_tokens
from kernels.formats.activations import NotFiniteError, quantize_activations
from kernels.formats.planes import ShapeError

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
TOKENS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70), elements=FLOATS)


def engine_quantize(
    x: np.ndarray, bits: int, clip: float = 1.0, tile_tokens: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    m, k = x.shape
    padded = -(-k // 32) * 32
    tiles = -(-m // tile_tokens) + 1
    packed, sums = np.full((tiles, padded * tile_tokens), 99, np.int8), np.empty((m, 1), np.int32)
    scale, zero = np.empty(m, np.float32), np.empty(m, np.int32)
    assert quantize_tokens(x, bits, np.float32(clip), padded, tile_tokens, Tokens(packed, scale, zero, sums)) == m
    codes = packed.reshape(tiles, padded // 4, tile_tokens, 4).transpose(0, 2, 1, 3).reshape(-1, padded)
    assert not codes[m:].any()
    assert not codes[:, k:].any()
    shift = 128 if bits == 8 else 0
    return codes[:m, :k].astype(np.int32) + shift, scale, zero + shift, sums[:, 0] + shift * k


@settings(max_examples=80, deadline=None)
@given(x=TOKENS, bits=st.integers(1, 8), clip=st.sampled_from([1.0, 0.9, 0.3]), tile=st.sampled_from([1, 4, 8]))
def test_engine_numpy_and_torch_are_bit_equal(x: np.ndarray, bits: int, clip: float, tile: int) -> None:
    codes, scale, zero, sums = quantize_activations(x, bits, clip)
    for mine, reference in zip(engine_quantize(x, bits, clip, tile), (codes, scale, zero, sums), strict=True):
        assert np.array_equal(mine, reference)
    t = torch.from_numpy(x)
    low, high = t.amin(-1, keepdim=True).clamp(max=0), t.amax(-1, keepdim=True).clamp(min=0)
    low, high = low * clip, high * clip
    step = (high - low) / (2**bits - 1)
    step = torch.where(step > 0, step, torch.ones_like(step))
    offset = torch.round(-low / step)
    assert np.array_equal(torch.clamp(torch.round(t / step) + offset, 0, 2**bits - 1).numpy(), codes)
    assert np.array_equal(step[:, 0].numpy(), scale)
    assert np.array_equal(offset[:, 0].numpy(), zero)


def test_clipping_clamps_values_outside_the_range() -> None:
    codes, scale, zero, _ = quantize_activations(np.array([[-4.0, 0.0, 1.0, 8.0]], np.float32), 2, clip=0.5)
    assert scale.tolist() == [2.0]
    assert zero.tolist() == [1]
    assert codes.tolist() == [[0, 1, 1, 3]]


def test_zero_is_exact_and_rounding_is_half_to_even() -> None:
    codes, scale, zero, sums = quantize_activations(np.array([[-1.0, 0.0, 0.5, 1.5, 2.0]], np.float32), 2)
    assert scale.tolist() == [1.0]
    assert zero.tolist() == [1]
    assert codes.tolist() == [[0, 1, 1, 3, 3]]
    assert sums.tolist() == [8]


def test_a_one_sided_range_includes_zero() -> None:
    codes, scale, zero, _ = quantize_activations(np.array([[3.0, 6.0], [-3.0, -6.0]], np.float32), 1)
    assert scale.tolist() == [6.0, 6.0]
    assert zero.tolist() == [0, 1]
    assert codes.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_token_that_is_not_finite_is_refused(bad: float) -> None:
    x = np.array([[1.0, 2.0], [1.0, bad], [bad, 2.0]], np.float32)
    with pytest.raises(NotFiniteError, match=rf"Row 1 of an input \(3, 2\) has {bad} in column 1"):
        quantize_activations(x, 4)


def test_a_range_beyond_float32_is_refused() -> None:
    with pytest.raises(NotFiniteError, match=r"Row 0 .* ranges from -3e\+38 to 3e\+38"):
        quantize_activations(np.array([[-3e38, 3e38]], np.float32), 8)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"1\.\.8 bits, got 9"):
        quantize_activations(np.zeros((1, 2), np.float32), 9)
    with pytest.raises(ShapeError, match="tokens, channels"):
        quantize_activations(np.zeros(2, np.float32), 8)
