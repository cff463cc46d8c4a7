"""Every path refuses tokens with NaN or infinity.

A comparison that ignores NaN would turn it into a number.
"""

from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from cpu_decode_cases import attended, run_one
from instruction_sets import OTHERS, run_with
from numpy.typing import NDArray

from kernels import dispatch, half_products
from kernels.cpu import engine
from kernels.dispatch import DEQUANTIZED, NUMPY
from kernels.formats.activations import NotFiniteError
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.kv_codes import KvCodes
from kernels.token_program import GATE_UP, GATED, Operation, X

Floats = NDArray[np.float32]
RANDOM = np.random.default_rng(11)
NEGATIVE_NAN = np.array([0xFFC00001], np.uint32).view(np.float32)[0]
BAD = [np.float32(value) for value in (np.nan, NEGATIVE_NAN, np.inf, -np.inf)]
WIDTHS = (1, 7, 64, 67, 333)  # with and without a remainder after full vectors
PATHS = [
    *((path, bits) for path in (engine.DOT, engine.GEMM, NUMPY) for bits in (1, 8)),
    (engine.BIT_SERIAL, 2),
    (DEQUANTIZED, 16),
    (NUMPY, 16),
]


def packed(k: int, by_planes: bool) -> PackedWeight:
    codes, zero = RANDOM.integers(0, 4, (37, k)), RANDOM.integers(0, 4, 37)
    with patch("kernels.formats.weight._by_planes", lambda planes, act_bits: by_planes):
        return pack_weight(codes, 2, RANDOM.uniform(0.5, 1.5, 37).astype(np.float32), zero)


def multiply(x: Floats, weight: PackedWeight, act_bits: int, path: str) -> Floats:
    with patch.object(dispatch, "path_for", lambda weight, m, act_bits: path):
        return dispatch.linear(x, weight, act_bits)


def assert_refused(path: str, act_bits: int) -> None:
    """Try each bad value at the start, middle and end, in one token and in nine; without it, the product is finite."""
    for k, m, bad in product(WIDTHS, (1, 9), BAD):
        weight = packed(k, path == engine.BIT_SERIAL)
        for column, row in product({0, k // 2, k - 1}, {0, m // 2, m - 1}):
            x = RANDOM.standard_normal((m, k), np.float32)
            assert np.isfinite(multiply(x, weight, act_bits, path)).all()
            x[row, column] = bad
            with pytest.raises(
                NotFiniteError, match=rf"Row {row} of an input \({m}, {k}\) has {bad} in column {column}"
            ):
                multiply(x, weight, act_bits, path)


@pytest.mark.parametrize(("path", "act_bits"), PATHS)
def test_nan_and_infinity_are_refused(path: str, act_bits: int) -> None:
    assert_refused(path, act_bits)


@pytest.mark.parametrize("name", OTHERS)
def test_other_instruction_sets_refuse_nan_and_infinity(name: str) -> None:
    run_with(name, "from test_not_finite import *\nfor path in PATHS: assert_refused(*path)")


@pytest.mark.parametrize(("path", "act_bits"), [(path, bits) for path, bits in PATHS if bits < 16])
def test_a_range_beyond_float32_is_refused(path: str, act_bits: int) -> None:
    x = np.full((2, 64), 3e38, np.float32)
    x[1, 5] = -3e38
    with pytest.raises(NotFiniteError, match=r"Row 1 .* ranges from -3e\+38 to 3e\+38"):
        multiply(x, packed(64, path == engine.BIT_SERIAL), act_bits, path)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_error_comes_from_every_thread(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(engine, "WORTH_A_THREAD", 0)
    weight, x = packed(64, False), np.ones((1, 64), np.float32)
    x[0, 3] = np.nan
    for act_bits in (8, 16):
        with pytest.raises(NotFiniteError, match="nan in column 3"):
            dispatch.linear(x, weight, act_bits, threads)


def test_exact_integers_refuses_nan_and_infinity() -> None:
    x = np.full((3, 64), np.inf, np.float32)
    with pytest.raises(NotFiniteError, match="Row 0"):
        dispatch.exact_integers(x, packed(64, False), 8)


def test_overflow_of_finite_numbers_is_infinity() -> None:
    y = multiply(np.full((1, 64), 3e38, np.float32), packed(64, False), 16, DEQUANTIZED)
    assert not np.isfinite(y).all()


@pytest.mark.parametrize("bad", [*BAD, np.float32(1e20)])  # the square of the last one overflows float32
@pytest.mark.parametrize("column", [0, 100, 256])
def test_norm_refuses_nan_and_infinity(bad: np.float32, column: int) -> None:
    x = np.ones(257, np.float32)
    x[column] = bad
    with pytest.raises(NotFiniteError, match="more bits or another method"):
        run_one(Operation.norm(np.ones(257, np.float32), 1e-6, has_added=False), {X: x})


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("position", [0, 7, 18])
def test_attention_propagates_nan_and_infinity(bad: np.float32, part: str, position: int) -> None:
    query, (keys, values) = np.ones((2, 16), np.float32), np.ones((2, 1, 19, 16), np.float32)
    if part == "query":
        query[:, position % 16] = bad
    else:
        (keys if part == "key" else values)[0, position, 3] = bad
    seen = attended(query, keys, values, 0, 1.0)
    assert not np.isfinite(seen.reshape(2, 16)[:, 3]).any()


@pytest.mark.parametrize("bad", BAD)
def test_gate_and_bfloat16_product_propagate_nan_and_infinity(bad: np.float32) -> None:
    for column in (0, 40):  # in the gate, and in the other factor
        x = np.ones(80, np.float32)
        x[column] = bad
        assert not np.isfinite(run_one(Operation.gate(40), {GATE_UP: x}).values[GATED][0])
    x = np.ones(70, np.float32)
    x[69] = bad
    assert not np.isfinite(half_products.bfloat16_product(np.ones((5, 70), np.uint16), x)).any()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("column", [0, 9, 18])
def test_quantized_keys_and_values_refuse_nan_and_infinity(bad: np.float32, column: int) -> None:
    good = np.ones((2, 3, 19), np.float32)
    wrong = good.copy()
    wrong[1, 2, column] = bad
    for keys, values in ((wrong, good), (good, wrong)):
        with pytest.raises(NotFiniteError, match=f"Row 5 .* has {bad} in column {column}"):
            KvCodes(2, 5, 19, 4).write(0, keys, values)
    query = np.ones((2, 19), np.float32)
    query[0, column] = bad
    seen = attended(query, good, good, 0, 1.0, bits=4).reshape(2, 19)
    assert not np.isfinite(seen[0]).any() and np.isfinite(seen[1]).all()
