"""Every path of the engine compared with the int64 reference.

Shapes, bits, stars, zero points, groups, remainders.
"""

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_sets import OTHERS, run_with
from weight_cases import random_weight

from kernels import dispatch
from kernels.cpu import engine
from kernels.formats.activations import quantize_activations
from kernels.formats.planes import ShapeError
from kernels.formats.reference import integer_totals, linear_from_totals
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.host.processor import target


def tokens(seed: int, m: int, k: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, k), np.float32)


def assert_exact(x: np.ndarray, weight: PackedWeight, act_bits: int, path: str | None = None) -> None:
    codes, act_scale, act_zero, _ = quantize_activations(x, act_bits, weight.act_clip)
    totals = integer_totals(codes, act_zero, weight.levels(), weight.zero, weight.segment)
    expected = linear_from_totals(totals, act_scale, weight.scale, weight.bias)
    integers = np.full(totals.shape, -1, np.int32)
    y = engine.linear(x, weight, act_bits, path or engine.path_for(weight, len(x), act_bits), 2, integers)
    assert np.array_equal(integers, totals)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=150, deadline=None)
@given(
    bits=st.integers(1, 8),
    act_bits=st.integers(1, 8),
    packed_for=st.integers(1, 8),
    starred=st.booleans(),
    group_size=st.sampled_from([None, 32, 64, 96, 128]),
    m=st.integers(1, 9),
    n=st.integers(1, 100),
    k=st.integers(1, 600),
    seed=st.integers(0, 2**31),
)
def test_integers_equal_the_int64_reference(
    bits: int, act_bits: int, packed_for: int, starred: bool, group_size: int | None, m: int, n: int, k: int, seed: int
) -> None:
    weight = random_weight(seed, n, k, bits, starred, group_size, packed_for)
    x = tokens(seed, m, k)
    assert_exact(x, weight, act_bits)
    assert_exact(x, weight, act_bits, engine.DOT)
    assert_exact(x, weight, act_bits, engine.GEMM)


RANDOM_CASES = 2000


def irregular_case(seed: int) -> tuple[np.ndarray, PackedWeight, int]:
    """Random bits, star, groups and remainders, with extreme zero points, extreme codes and saturated inputs."""
    random = np.random.default_rng(seed)
    bits, act_bits, packed_for = (int(b) for b in random.integers(1, 9, 3))
    starred, extreme, saturated = random.random(3) < (0.25, 0.3, 0.3)
    group_size = [None, 32, 64, 96, 128][random.integers(5)]
    m, n, k = int(random.integers(1, 20)), int(random.integers(1, 120)), int(random.integers(1, 700))
    top, groups = (1 << bits) - 1 + int(starred), 1 if group_size is None else -(-k // group_size)
    codes = random.choice([0, top], (n, k)) if extreme else random.integers(0, top + 1, (n, k))
    spacing = int(random.choice([1, 2, 1 << random.integers(2, 11 - bits)]))
    outside = spacing // 2 if spacing > 2 else 0
    ends = -outside, spacing * top + outside
    zero = random.choice(ends, (n, groups)) if extreme else random.integers(*ends, (n, groups), endpoint=True)
    scale = random.uniform(1e-3, 10, (n, groups)).astype(np.float32)
    bias = random.standard_normal(n, np.float32) if random.random() < 0.5 else None
    clip = float(random.choice([1.0, 0.7]))
    planes, by_planes = bits + int(starred), random.random() < 0.4
    own = group_size, bias, packed_for, clip, 1, spacing
    with patch("kernels.formats.weight._by_planes", lambda planes, act_bits: by_planes):
        weight = pack_weight(codes.astype(np.uint16), planes, scale, zero, *own)
    x = random.standard_normal((m, k), np.float32)
    if saturated:
        x = np.where(x > 0, np.float32(random.choice([1e30, 1e-30, 5.0])), np.float32(0 if seed % 2 else -5))
    return x, weight, act_bits


def assert_random_cases(count: int) -> None:
    """Run each case on every path that supports it."""
    for seed in range(count):
        x, weight, act_bits = irregular_case(seed)
        paths = [engine.DOT, engine.GEMM]
        if weight.is_bit_serial and weight.planes * act_bits < 8:
            paths.append(engine.BIT_SERIAL)
        for path in paths:
            assert_exact(x, weight, act_bits, path)


def test_two_thousand_random_cases_on_each_path() -> None:
    assert_random_cases(RANDOM_CASES)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("m", [13, 32, 48])
def test_the_packed_kernel_is_exact_for_as_many_tokens_as_it_is_used_for(m: int, bits: int) -> None:
    assert_exact(tokens(m, m, 300), random_weight(bits, 75, 300, bits), 8, engine.DOT)


@pytest.mark.parametrize("act_bits", range(1, 9))
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("starred", [False, True])
def test_every_precision(bits: int, act_bits: int, starred: bool) -> None:
    weight = random_weight(bits * 8 + act_bits, 40, 200, bits, starred, None, act_bits)
    for m in (1, 5):
        assert_exact(tokens(m, m, 200), weight, act_bits)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (131, 65, 300), (257, 17, 1100), (1000, 33, 64), (1, 4096, 64)])
def test_shapes_larger_than_the_blocks(m: int, n: int, k: int) -> None:
    for bits in (2, 3, 8):
        assert_exact(tokens(m, m, k), random_weight(n, n, k, bits), 8)


@pytest.mark.parametrize(("bits", "starred"), [(8, False), (8, True), (4, False), (1, False)])
@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("spacing", [1, 2])
def test_extreme_values_on_long_rows_do_not_overflow(bits: int, starred: bool, m: int, spacing: int) -> None:
    n, k = 17, 70_000
    codes = np.full((n, k), (1 << bits) - 1 + starred, np.uint16)
    ones = np.ones((n, 1), np.float32)
    weight = pack_weight(codes, bits + starred, ones, np.zeros((n, 1), int), spacing=spacing)
    x = np.ones((m, k), np.float32)
    assert_exact(x, weight, 8)
    expected = k * spacing * ((1 << bits) - 1 + starred)
    np.testing.assert_allclose(dispatch.linear(x, weight, 8), np.full((m, n), expected), rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 5])
def test_sums_of_shifted_codes_do_not_overflow(bits: int) -> None:
    """Longer than the rows above: codes are added where they lie in a byte, as multiples of 16."""
    n, k = 16, 142_528
    weight = pack_weight(np.full((n, k), 15, np.uint16), bits, np.ones((n, 1), np.float32), np.zeros((n, 1), int))
    x = np.ones((1, k), np.float32)
    assert_exact(x, weight, 8)
    np.testing.assert_allclose(dispatch.linear(x, weight, 8), np.full((1, n), 15 * k), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(1, 8),
    starred=st.booleans(),
    group_size=st.sampled_from([None, 32, 128]),
    m=st.integers(1, 9),
    n=st.integers(1, 70),
    k=st.integers(1, 400),
    seed=st.integers(0, 2**31),
)
def test_16_bit_activations_use_the_float_product(
    bits: int, starred: bool, group_size: int | None, m: int, n: int, k: int, seed: int
) -> None:
    assert_float_product(random_weight(seed, n, k, bits, starred, group_size, 16), tokens(seed, m, k))


def test_16_bit_activations_and_a_weight_without_its_lowest_planes() -> None:
    random = np.random.default_rng(0)
    codes, zero = random.integers(0, 8, (40, 90)), random.integers(-32, 481, (40, 1))
    weight = pack_weight(codes, 3, np.full((40, 1), 0.01, np.float32), zero, spacing=64)
    for m in (1, 5):
        assert_float_product(weight, tokens(m, m, 90))


def assert_float_product(weight: PackedWeight, x: np.ndarray) -> None:
    """The product of float tokens is that of the dequantized weight."""
    m = len(x)
    assert dispatch.path_for(weight, m, 16) == "dequantized-fp32"
    expected = x.astype(np.float64) @ weight.dequantize().T.astype(np.float64)
    expected += 0 if weight.bias is None else weight.bias
    np.testing.assert_allclose(dispatch.linear(x, weight, 16), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("act_bits", [1, 8, 16])
def test_numpy_replaces_a_disabled_path(monkeypatch: pytest.MonkeyPatch, act_bits: int) -> None:
    weight, x = random_weight(3, 600, 90, 3, True, 32), tokens(0, 3, 90)
    expected = dispatch.linear(x, weight, act_bits)
    monkeypatch.setattr(engine, "works", lambda path: False)
    assert dispatch.path_for(weight, 3, act_bits) == "numpy"
    np.testing.assert_allclose(dispatch.linear(x, weight, act_bits), expected, rtol=1e-4, atol=1e-3)


def test_a_path_that_fails_its_self_test_is_named_and_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    right = engine.linear

    def wrong(
        x: np.ndarray, weight: PackedWeight, act_bits: int, path: str, threads: int, integers: np.ndarray
    ) -> object:
        y = right(x, weight, act_bits, path, threads, integers)
        integers[0, 0, 0] += 1
        return y

    monkeypatch.setattr(engine, "linear", wrong)
    engine.works.cache_clear()
    try:
        with pytest.warns(engine.EngineWarning, match="'int8-gemm' returned wrong results"):
            assert not engine.works(engine.GEMM)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert dispatch.path_for(random_weight(0, 4, 64, 2), 64, 8) == "numpy"
    finally:
        engine.works.cache_clear()


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WORTH_A_THREAD", 0)
    for bits, act_bits, m in ((2, 8, 1), (1, 1, 2), (4, 4, 9), (2, 16, 3)):
        weight, x = random_weight(1, 333, 500, bits, act_bits=act_bits), tokens(1, m, 500)
        assert np.array_equal(dispatch.linear(x, weight, act_bits, 1), dispatch.linear(x, weight, act_bits, 2))


def test_calls_from_many_threads_at_once() -> None:
    weight, x = random_weight(2, 512, 512, 2), tokens(2, 20, 512)
    expected = dispatch.linear(x, weight, 8)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: dispatch.linear(x, weight, 8, 2), range(40)):
            assert np.array_equal(y, expected)


def test_each_token_of_a_batch_equals_the_token_alone() -> None:
    weight, x = random_weight(5, 96, 256, 4, group_size=64), tokens(5, 7, 256)
    batch = dispatch.linear(x, weight, 4)
    for t in range(7):
        assert np.array_equal(dispatch.linear(x[t : t + 1], weight, 4)[0], batch[t])


def test_input_of_another_layout_or_type_is_converted() -> None:
    weight, x = random_weight(7, 20, 64, 4), tokens(7, 4, 64)
    frozen = x.copy()
    frozen.setflags(write=False)
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    shifted[:] = x
    wide, backwards = np.zeros((4, 128), np.float32), np.ascontiguousarray(x[::-1, ::-1])
    wide[:, ::2] = x
    others = [np.asfortranarray(x), x.astype(np.float64), x.astype(">f4"), frozen, shifted]
    others += [np.repeat(x, 2, axis=0)[::2], wide[:, ::2], backwards[::-1, ::-1]]
    for act_bits, m in product((8, 16), (1, 4)):
        expected = dispatch.linear(x[:m], weight, act_bits)
        for same in others:
            assert np.array_equal(dispatch.linear(same[:m], weight, act_bits), expected)
    codes = np.arange(256).reshape(4, 64)
    expected = dispatch.linear(codes.astype(np.float32), weight, 8)
    assert np.array_equal(dispatch.linear(codes, weight, 8), expected)  # type: ignore[arg-type]


def test_zero_tokens_return_zero_rows() -> None:
    weight = random_weight(8, 20, 64, 4)
    assert dispatch.linear(np.empty((0, 64), np.float32), weight, 8).shape == (0, 20)
    assert dispatch.linear(np.empty((0, 64), np.float32), weight, 16).shape == (0, 20)


@pytest.mark.parametrize("shape", [(1, 63), (1, 65), (64,), (1, 1, 64), (64, 1), ()])
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    weight = random_weight(9, 20, 64, 4)
    for act_bits, multiply in product((8, 16), (dispatch.linear, dispatch.exact_integers)):
        if multiply is dispatch.linear or act_bits == 8:
            with pytest.raises(ShapeError, match=re.escape(f"{shape} do not fit a weight (20, 64)")):
                multiply(np.zeros(shape, np.float32), weight, act_bits)


@pytest.mark.parametrize("act_bits", [-1, 0, 9, 15, 17, 32, 4.5])
def test_a_bit_width_that_does_not_fit_is_refused(act_bits: int) -> None:
    weight, x = random_weight(9, 20, 64, 4), np.zeros((1, 64), np.float32)
    for ask in (dispatch.linear, dispatch.exact_integers):
        with pytest.raises(ShapeError, match=rf"act_bits is {act_bits}: .*1\.\.8"):
            ask(x, weight, act_bits)
    with pytest.raises(ShapeError, match=rf"act_bits is {act_bits}: use 1\.\.8"):
        dispatch.path_for(weight, 1, act_bits)


def test_exact_integers_refuses_16_bit_activations() -> None:
    with pytest.raises(ShapeError, match=r"act_bits is 16: exact integers need .* 1\.\.8 bits"):
        dispatch.exact_integers(np.zeros((1, 64), np.float32), random_weight(9, 20, 64, 4), 16)


def test_activations_that_are_not_numbers_are_refused() -> None:
    weight = random_weight(9, 20, 64, 4)
    with pytest.raises(ShapeError, match="real numbers, got complex64"):
        dispatch.linear(np.ones((1, 64), np.complex64), weight, 8)
    with pytest.raises(ShapeError, match="takes NumPy activations, not list"):
        dispatch.linear([[0.0] * 64], weight, 8)  # type: ignore[call-overload]
    with pytest.raises(ShapeError, match="has inf in column 0"):
        dispatch.linear(np.full((1, 64), 1e300), weight, 8)


def test_the_path_is_named() -> None:
    dot = target().name
    serial = {"avx512-vnni": "avx512-bitserial", "avx2": "avx2-bitserial", "portable": dot}[dot]
    pairs = serial if target().serial_products >= 4 else dot
    assert dispatch.path_for(random_weight(0, 8, 64, 2), 1, 8) == dot
    assert dispatch.path_for(random_weight(0, 8, 64, 1, act_bits=1), 1, 1) == serial
    assert dispatch.path_for(random_weight(0, 8, 64, 2, act_bits=2), 1, 2) == pairs
    assert dispatch.path_for(random_weight(0, 8, 64, 2, act_bits=2), 1, 8) == dot
    assert dispatch.path_for(random_weight(0, 8, 64, 2), 64, 8) == "int8-gemm"
    described = dispatch.describe()
    assert all(described["paths"].values())
    assert set(described) == {"cpu", "instructions", "paths", "threads"}


ON_OTHERS = """
from test_engine import RANDOM_CASES, assert_exact, assert_random_cases, random_weight, tokens
from kernels import dispatch
from kernels.host.processor import target
assert all(dispatch.describe()["paths"].values()), dispatch.describe()
for bits in range(1, 9):
    for starred in (False, True):
        weight = random_weight(bits, 37, 300, bits, starred, None if bits % 2 else 64)
        for m in (1, 6):
            assert_exact(tokens(m, m, 300), weight, 8 - bits // 2)
for bits, act_bits in ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1)):
    weight = random_weight(bits, 37, 300, bits, act_bits=act_bits)
    assert dispatch.path_for(weight, 1, act_bits) == {"avx2": "avx2-bitserial"}.get(target().name, "portable")
    for m in (1, 6):
        assert_exact(tokens(m, m, 300), weight, act_bits)
assert_random_cases(RANDOM_CASES)
"""


@pytest.mark.parametrize("name", OTHERS)
def test_other_instruction_sets_are_exact(name: str) -> None:
    run_with(name, ON_OTHERS)
