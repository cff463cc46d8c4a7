"""One token between its products: against NumPy in float64. Keys and values as integers. Stacked weights. Warm-up."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels import decode_ops
from kernels.dispatch import linear
from kernels.formats.planes import ShapeError
from kernels.formats.stacked import can_stack, stack
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.kv_codes import KvCodes

Floats = NDArray[np.float32]
RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> Floats:
    return RANDOM.standard_normal(shape, np.float32)


def attention(query: Floats, keys: Floats, values: Floats, scale: float) -> NDArray[np.float64]:
    """Softmax attention as one writes it down: keys, values (kv_heads, tokens, d)."""
    group = len(query) // len(keys)
    keys, values = np.repeat(keys, group, 0).astype(np.float64), np.repeat(values, group, 0).astype(np.float64)
    scores = np.einsum("hd,htd->ht", query, keys) * scale
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return np.einsum("ht,htd->hd", weights / weights.sum(1, keepdims=True), values).reshape(1, -1)


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


def test_gate_at_all_sizes_of_its_argument() -> None:
    gate = np.concatenate([np.linspace(-20, 20, 333), [-1e4, -100, -88, 88, 100, 1e4]]).astype(np.float32)
    up = normal(gate.size)
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = wide / (1 + np.exp(-wide)) * up
    np.testing.assert_allclose(decode_ops.gated(np.concatenate([gate, up]))[0], expected, rtol=1e-5, atol=1e-30)


def test_rotation_turns_halves_against_each_other() -> None:
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


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("d", [5, 16])
def test_attention_over_codes_is_that_over_what_they_stand_for(bits: int, d: int) -> None:
    query, keys, values = normal(4, d), normal(2, 12, d), normal(2, 12, d)
    codes = KvCodes(2, 12, d, bits)
    codes.write(0, keys[:, :9], values[:, :9])
    for position in range(9, 12):
        codes.write(position, keys[:, position, None], values[:, position, None])

    def rounded(x: Floats) -> Floats:
        low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
        scale = (high - low) / np.float32(2**bits - 1)
        zero = np.rint(-low / scale)
        return (np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1) - zero) * scale

    expected = attention(query, rounded(keys)[:, 2:], rounded(values)[:, 2:], 0.5)
    np.testing.assert_allclose(codes.attend(query, 2, 12, 0.5), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bits", "d", "width"), [(8, 16, 8), (4, 16, 4), (3, 16, 4), (2, 16, 2), (2, 5, 8), (1, 8, 1)])
def test_codes_take_their_bits(bits: int, d: int, width: int) -> None:
    assert KvCodes(2, 10, d, bits).nbytes == 2 * 2 * 10 * (d * width // 8 + 8)


def test_a_constant_channel_and_a_zero_token_stay_finite() -> None:
    keys = np.zeros((1, 2, 8), np.float32)
    keys[0, 1] = 3
    codes = KvCodes(1, 2, 8, 4)
    codes.write(0, keys, keys)
    np.testing.assert_allclose(codes.attend(np.ones((1, 8), np.float32), 1, 2, 1.0), np.full((1, 8), 3), rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 63, 130])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_head_in_bfloat16(rows: int, threads: int) -> None:
    bits = (normal(rows, 70).view(np.uint32) >> 16).astype(np.uint16)
    weight = (bits.astype(np.uint32) << 16).view(np.float32)
    x = normal(70)
    np.testing.assert_allclose(decode_ops.bfloat16_product(bits, x, threads), weight @ x, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match=r"\(69,\)"):
        decode_ops.bfloat16_product(bits, x[:69])


def packed(n: int, planes: int, group_size: int | None = None, bias: bool = False, clip: float = 1.0) -> PackedWeight:
    groups = 1 if group_size is None else -(-96 // group_size)
    scale = RANDOM.uniform(0.5, 1.5, (n, groups)).astype(np.float32)
    codes, zero = RANDOM.integers(0, 1 << planes, (n, 96)), RANDOM.integers(0, 1 << planes, (n, groups))
    return pack_weight(codes, planes, scale, zero, group_size, scale[:, 0] if bias else None, 8, clip)


def test_stacked_weights_give_the_rows_of_all() -> None:
    weights = [packed(32, 3, bias=True), packed(16, 3), packed(7, 3)]
    assert can_stack(weights)
    whole, parts = stack(weights)
    x = normal(1, 96)
    expected = np.concatenate([linear(x, weight, 8) for weight in weights], axis=1)
    np.testing.assert_array_equal(linear(x, whole, 8), expected)
    np.testing.assert_array_equal(np.concatenate([linear(x, part, 8) for part in parts], axis=1), expected)
    for part in parts:
        assert np.shares_memory(part.data, whole.data) and np.shares_memory(part.panel_sum, whole.panel_sum)
    assert whole.data.ctypes.data % 64 == 0


def test_weights_that_differ_in_more_than_rows_are_not_stacked() -> None:
    first = packed(16, 3)
    for other in (packed(16, 2), packed(16, 3, 32), packed(16, 3, clip=0.5)):
        assert not can_stack([first, other])
    assert not can_stack([first, replace(first, spacing=2)])
    assert not can_stack([packed(16, 3, 32), packed(16, 3, 32)])  # their scales would be held twice
    assert not can_stack([packed(7, 3), first]) and can_stack([first, packed(7, 3)])


def test_what_was_warmed_up_is_not_compiled_by_the_next_process() -> None:
    code = "from kernels.warm_up import warm_up; print(warm_up().compiled)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[1].stdout.strip() == "0", runs[1].stderr
