"""The operations of a token program, compared with NumPy in float64, and programs as a whole."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from cpu_decode_cases import Floats, attended, attention, normal, run_one

from kernels import dispatch, token_program
from kernels.formats.activations import NotFiniteError
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.host.threads import run_ranges
from kernels.token_program import (
    ADDED,
    ATTENDED,
    COS,
    GATE_UP,
    GATED,
    GELU,
    GELU_TANH,
    NORMED,
    QKV,
    RELU,
    SILU,
    SIN,
    Memory,
    Operation,
    Program,
    X,
    buffer_sizes,
    float_layer,
)

PRODUCTS = [("W4A8", 1), ("W2A8", 1), ("W2A2", 1), ("W4A16", 1), ("W9A16", 1), ("W4A8", 32), ("W3A16", 16)]


@pytest.mark.parametrize("size", [1, 7, 64, 257])
def test_norm_adds_first(size: int) -> None:
    x, added, weight = normal(size), normal(size), normal(size)
    total = (x + added).astype(np.float64)
    expected = weight * total / np.sqrt((total**2).mean() + 1e-5)
    memory = run_one(Operation.norm(weight, 1e-5, has_added=True), {X: x, ADDED: added})
    np.testing.assert_allclose(memory.values[NORMED], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(memory.values[X], total, rtol=1e-6)
    alone = run_one(Operation.norm(weight, 1e-5, has_added=False), {X: x, ADDED: added})
    assert np.array_equal(alone.values[X], x)


@pytest.mark.parametrize("size", [1, 7, 64, 257])
def test_a_layer_norm_in_place(size: int) -> None:
    x, weight, bias = normal(size) + 3, normal(size), normal(size)
    wide = x.astype(np.float64)
    expected = weight * (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5) + bias
    memory = run_one(Operation.norm(weight, 1e-5, False, bias, in_place=ADDED), {ADDED: x})
    np.testing.assert_allclose(memory.values[ADDED], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_norm_of_some_heads(has_bias: bool) -> None:
    qkv, weight, bias = normal(5, 12), normal(12), normal(12)
    wide = qkv[2:4].astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True) if has_bias else wide
    normed = weight * centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6) + (bias if has_bias else 0)
    memory = run_one(Operation.norm_heads(weight, 1e-6, bias if has_bias else None, 2, 2), {QKV: qkv[:4]})
    assert np.array_equal(memory.values[QKV][:24], qkv[:2].ravel())
    np.testing.assert_allclose(memory.values[QKV][24:48], normed.ravel(), rtol=1e-5, atol=1e-5)


def test_a_head_that_is_not_finite_is_named() -> None:
    qkv = normal(3, 8)
    qkv[2, 1] = np.inf
    with pytest.raises(NotFiniteError, match="inf in column 17"):
        run_one(Operation.norm_heads(np.ones(8, np.float32), 1e-6, None, 1, 2), {QKV: qkv})


def test_add() -> None:
    x, added = normal(19), normal(19)
    assert np.array_equal(run_one(Operation.add(19), {X: x, ADDED: added}).values[X], x + added)


def test_regroup_brings_queries_keys_and_values_together() -> None:
    grouped = normal(3, 4, 8)  # kv heads of two queries, a key and a value
    memory = run_one(Operation.regroup(6, 3, 8), {QKV: grouped})
    expected = np.concatenate([grouped[:, :2].reshape(6, 8), grouped[:, 2], grouped[:, 3]])
    assert np.array_equal(memory.values[QKV], expected.ravel())


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (SILU, torch.nn.functional.silu),
        (GELU, torch.nn.functional.gelu),
        (GELU_TANH, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
        (RELU, torch.nn.functional.relu),
    ],
)
@pytest.mark.parametrize("has_up", [False, True])
def test_activations(activation: int, expected: Callable[[torch.Tensor], torch.Tensor], has_up: bool) -> None:
    gate = np.concatenate([np.linspace(-12, 12, 401), [-1e3, -90, 90, 1e3]]).astype(np.float32)
    up = normal(gate.size)
    inputs = np.concatenate([gate, up]) if has_up else gate
    memory = run_one(Operation.gate(gate.size, activation, has_up), {GATE_UP: inputs})
    wide = expected(torch.from_numpy(gate).double()).numpy()
    np.testing.assert_allclose(memory.values[GATED], wide * up if has_up else wide, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("activation", [SILU, GELU, GELU_TANH, RELU])
def test_no_activation_hides_a_nan(activation: int) -> None:
    memory = run_one(Operation.gate(1, activation, False), {GATE_UP: np.full(1, np.nan, np.float32)})
    assert np.isnan(memory.values[GATED][0])


def test_gate_for_small_and_large_arguments() -> None:
    gate = np.concatenate([np.linspace(-20, 20, 333), [-1e4, -100, -88, 88, 100, 1e4]]).astype(np.float32)
    up = normal(gate.size)
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = wide / (1 + np.exp(-wide)) * up
    memory = run_one(Operation.gate(gate.size), {GATE_UP: np.concatenate([gate, up])})
    np.testing.assert_allclose(memory.values[GATED], expected, rtol=1e-5, atol=1e-30)


def test_rotation_pairs_channel_i_with_i_plus_half() -> None:
    query, key, value, angle = normal(2, 8), normal(1, 8), normal(1, 8), normal(4)
    cos, sin = np.tile(np.cos(angle), 2), np.tile(np.sin(angle), 2)
    both = np.concatenate([query, key])
    expected = both * cos + np.concatenate([-both[:, 4:], both[:, :4]], axis=1) * sin
    keys, values = np.zeros((2, 1, 3, 8), np.float32)
    layer = float_layer(keys, values, None)[None]
    inputs = {QKV: np.concatenate([both, value]), COS: cos, SIN: sin}
    run_one(Operation.attend(0, 2, 1, 8, 1.0), inputs, layer, 1)
    np.testing.assert_allclose(keys[0, 1], expected[2], rtol=1e-5, atol=1e-6)
    assert np.array_equal(values[0, 1], value[0]) and not keys[0, [0, 2]].any()


def test_a_rotation_of_some_channels_by_the_second_rotary_embedding() -> None:
    rows, angle = normal(3, 8), normal(2, 2)
    keys, values = np.zeros((2, 1, 1, 8), np.float32)
    layer = float_layer(keys, values, None)[None]
    cos, sin = (np.concatenate([part, part], axis=1) for part in (np.cos(angle), np.sin(angle)))
    inputs = {QKV: rows, COS: cos, SIN: sin}
    run_one(Operation.attend(0, 1, 1, 8, 1.0, rotated=4, rope=1), inputs, layer, 0)
    low, high = rows[1, :2], rows[1, 2:4]
    turned = np.concatenate([low * cos[1, :2] - high * sin[1, :2], high * cos[1, :2] + low * sin[1, :2]])
    np.testing.assert_allclose(keys[0, 0], np.concatenate([turned, rows[1, 4:]]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [None, 8])
def test_a_softcap_bounds_the_scores(bits: int | None) -> None:
    query, keys, values = normal(2, 16) * 4, normal(1, 30, 16), normal(1, 30, 16)
    scores = np.einsum("hd,td->ht", query, keys[0]).astype(np.float64)
    weights = np.exp(3 * np.tanh(scores / 3))
    expected = (weights / weights.sum(1, keepdims=True)) @ values[0]
    found = attended(query, keys, values, 0, 1.0, bits, softcap=3.0)
    np.testing.assert_allclose(found, expected.reshape(1, -1), rtol=1e-4, atol=1e-5 if bits is None else 0.05)


@pytest.mark.parametrize(("heads", "kv_heads", "d"), [(4, 2, 16), (3, 3, 5), (8, 1, 64)])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 40), (13, 29)])
def test_attention_over_part_of_a_cache(heads: int, kv_heads: int, d: int, first: int, last: int) -> None:
    query, keys, values = normal(heads, d) * 3, normal(kv_heads, last, d), normal(kv_heads, last, d)
    expected = attention(query, keys[:, first:], values[:, first:], 0.3)
    np.testing.assert_allclose(attended(query, keys, values, first, 0.3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (70, 300), (0, 513)])
@pytest.mark.parametrize("heads", [2, 7])
def test_threads_share_the_heads(
    heads: int, bits: int | None, first: int, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, keys, values = normal(heads, 16) * 3, normal(1, last, 16), normal(1, last, 16)
    alone = attended(query, keys, values, first, 0.3, bits)
    ranges = share_all(monkeypatch)
    shared = attended(query, keys, values, first, 0.3, bits)
    np.testing.assert_allclose(shared, alone, rtol=1e-5, atol=1e-6)
    assert ranges == [(0, -(-heads // 2)), (-(-heads // 2), heads)]


def test_a_short_window_is_worth_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, values = normal(2, 16), normal(1, 300, 16), normal(1, 300, 16)
    ranges = share_all(monkeypatch, worth=2 * 2 * 16 * 100)
    attended(query, keys, values, 250, 0.3)
    assert ranges == []
    attended(query, keys, values, 0, 0.3)
    assert len(ranges) == 2


def test_threads_name_a_value_that_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    share_all(monkeypatch)
    values = normal(1, 3, 8)
    values[0, 2, 1] = np.inf
    with pytest.raises(NotFiniteError, match="inf in column 25"):
        attended(normal(2, 8), normal(1, 3, 8), values, 0, 1.0, 8)


def share_all(monkeypatch: pytest.MonkeyPatch, worth: int = 0) -> list[tuple[int, int]]:
    """Have two threads share attention that takes this many multiplications. Returns the ranges that they get."""
    ranges: list[tuple[int, int]] = []

    def recorded(work: Callable[[int, int], None], count: int, step: int, threads: int) -> None:
        def noted(first: int, last: int) -> None:
            ranges.append((first, last))
            work(first, last)

        run_ranges(noted, count, step, threads)
        ranges.sort()

    monkeypatch.setattr(token_program, "WORTH_A_THREAD", worth)
    monkeypatch.setattr(token_program, "thread_count", lambda: 2)
    monkeypatch.setattr(token_program, "run_ranges", recorded)
    return ranges


@pytest.mark.parametrize(("name", "block"), PRODUCTS)
@pytest.mark.parametrize(("n", "k"), [(40, 64), (17, 96), (300, 160)])
def test_a_product_is_that_of_the_engine(name: str, block: int, n: int, k: int) -> None:
    weight, act_bits = packed(name, n, k, block)
    x = normal(1, k)
    memory = run_one(Operation.product(weight, act_bits, NORMED, QKV, 5), {NORMED: x})
    assert np.array_equal(memory.values[QKV][5:], dispatch.linear(x, weight, act_bits)[0])
    assert not memory.values[QKV][:5].any()


def test_a_large_product_runs_between_small_operations() -> None:
    weight, act_bits = packed("W4A8", 4096, 2080, 1)
    large = Operation.product(weight, act_bits, NORMED, ADDED, 0)
    small, after = packed("W4A8", 2080, 64, 1), packed("W4A8", 48, 4096, 1)
    operations = [
        Operation.product(*small, X, NORMED, 0),
        large,
        Operation.product(*after, ADDED, ATTENDED, 0),
    ]
    assert large.large and not operations[0].large
    memory = Memory(buffer_sizes(operations), np.zeros((0, 1), np.int64))
    x = normal(1, 64)
    memory.values[X][:] = x[0]
    Program(operations).run(memory, 0)
    expected = x
    for weight_and_bits in (small, (weight, act_bits), after):
        expected = dispatch.linear(expected, *weight_and_bits)
    assert np.array_equal(memory.values[ATTENDED], expected[0])


@pytest.mark.parametrize("name", ["W4A8", "W2A2", "W4A16"])
@pytest.mark.parametrize("large", [False, True])
def test_a_product_names_an_input_that_is_not_finite(name: str, large: bool) -> None:
    weight, act_bits = packed(name, 9000 if large else 32, 960, 1)
    x = normal(1, 960)
    x[0, 70] = np.nan
    operation = Operation.product(weight, act_bits, NORMED, QKV, 0)
    assert operation.large == large
    with pytest.raises(NotFiniteError, match=r"input \(1, 960\) has nan in column 70"):
        run_one(operation, {NORMED: x})


def packed(name: str, n: int, k: int, block: int) -> tuple[PackedWeight, int]:
    """A random weight and the bits of its activations."""
    planes, act_bits = (int(part) for part in name[1:].split("A"))
    random = np.random.default_rng(n)
    scale: Floats = random.uniform(0.5, 1.5, n).astype(np.float32)
    codes, zero = random.integers(0, 1 << planes, (n, k), dtype=np.uint16), random.integers(0, 1 << planes, n)
    return pack_weight(codes, planes, scale, zero, act_bits=act_bits, hadamard=block), act_bits
