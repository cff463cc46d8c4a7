"""The operations of a decode step, compared with NumPy in float64."""

import numpy as np
import pytest
from cpu_decode_cases import attention, normal

from kernels import decode_ops
from kernels.formats.planes import ShapeError


@pytest.mark.parametrize("size", [1, 7, 64, 257])
def test_norm_adds_first(size: int) -> None:
    x, added, weight = normal(size), normal(size), normal(size)
    total = (x + added).astype(np.float64)
    expected = weight * total / np.sqrt((total**2).mean() + 1e-5)
    np.testing.assert_allclose(decode_ops.add_norm(x, added, weight, 1e-5)[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x, total, rtol=1e-6)
    again = x.copy()
    decode_ops.add_norm(x, np.empty(0, np.float32), weight, 1e-5)
    assert np.array_equal(x, again)


def test_gate_for_small_and_large_arguments() -> None:
    gate = np.concatenate([np.linspace(-20, 20, 333), [-1e4, -100, -88, 88, 100, 1e4]]).astype(np.float32)
    up = normal(gate.size)
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = wide / (1 + np.exp(-wide)) * up
    np.testing.assert_allclose(decode_ops.gated(np.concatenate([gate, up]))[0], expected, rtol=1e-5, atol=1e-30)


def test_rotation_pairs_channel_i_with_i_plus_half() -> None:
    x, angle = normal(3, 8), normal(4)
    cos, sin = np.tile(np.cos(angle), 2), np.tile(np.sin(angle), 2)
    expected = x * cos + np.concatenate([-x[:, 4:], x[:, :4]], axis=1) * sin
    decode_ops.rotate(x, cos, sin)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(4, 2, 16), (3, 3, 5), (8, 1, 64)])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 40), (13, 29)])
def test_attention_over_part_of_a_cache(heads: int, kv_heads: int, d: int, first: int, last: int) -> None:
    query, keys, values = normal(heads, d) * 3, normal(kv_heads, 40, d), normal(kv_heads, 40, d)
    expected = attention(query, keys[:, first:last], values[:, first:last], 0.3)
    np.testing.assert_allclose(decode_ops.attend(query, keys, values, first, last, 0.3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 63, 130])
@pytest.mark.parametrize("threads", [1, 2])
def test_bfloat16_product(rows: int, threads: int) -> None:
    bits = (normal(rows, 70).view(np.uint32) >> 16).astype(np.uint16)
    weight = (bits.astype(np.uint32) << 16).view(np.float32)
    x = normal(70)
    np.testing.assert_allclose(decode_ops.bfloat16_product(bits, x, threads), weight @ x, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match=r"\(69,\)"):
        decode_ops.bfloat16_product(bits, x[:69])


@pytest.mark.parametrize("rows", [1, 63, 130])
@pytest.mark.parametrize("threads", [1, 2])
def test_float16_product(rows: int, threads: int) -> None:
    weight, x = normal(rows, 70).astype(np.float16), normal(70)
    found = decode_ops.float16_product(weight.view(np.uint16), x, threads)
    np.testing.assert_allclose(found, weight.astype(np.float32) @ x, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match=r"\(69,\)"):
        decode_ops.float16_product(weight.view(np.uint16), x[:69])


def test_float16_product_reads_every_finite_value() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))][:, None]
    found = decode_ops.float16_product(bits, np.ones(1, np.float32), 1)
    np.testing.assert_array_equal(found, bits.view(np.float16).astype(np.float32)[:, 0])
