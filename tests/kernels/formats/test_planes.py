"""Bit planes: round trip, documented layout, and the bit-serial product."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.formats.planes import ShapeError, pack_bit_planes, unpack_bit_planes
from kernels.formats.reference import bit_serial_product


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 9), rows=st.integers(1, 5), words=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_unpack_undoes_pack(bits: int, rows: int, words: int, seed: int) -> None:
    q = np.random.default_rng(seed).integers(0, 1 << bits, (rows, words * 64), dtype=np.uint16)
    planes = pack_bit_planes(q, bits)
    assert planes.shape == (rows, bits, words)
    assert planes.dtype == np.uint64
    assert np.array_equal(unpack_bit_planes(planes, words * 64), q)
    assert np.array_equal(unpack_bit_planes(planes, words * 64 - 7), q[:, :-7])


def test_column_c_is_bit_c_of_its_word() -> None:
    q = np.zeros((1, 128), np.uint8)
    q[0, 64 + 5] = 0b10
    planes = pack_bit_planes(q, 2)
    assert planes.tolist() == [[[0, 0], [0, 1 << 5]]]


@pytest.mark.parametrize(("q", "p"), [(1, 1), (3, 2), (8, 3), (8, 8), (4, 9)])
def test_the_popcount_expansion_is_the_integer_product(q: int, p: int) -> None:
    random = np.random.default_rng(q * 10 + p)
    a, w = random.integers(0, 1 << q, (3, 192)), random.integers(0, 1 << p, (5, 192))
    assert np.array_equal(bit_serial_product(a, w, q, p), a @ w.T)


def test_columns_that_do_not_fill_words_are_refused() -> None:
    with pytest.raises(ShapeError, match="multiple of 64"):
        pack_bit_planes(np.zeros((2, 65), np.uint8), 1)


def test_values_that_need_more_bits_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"0\.\.4 do not fit 2 bits"):
        pack_bit_planes(np.array([[4] + [0] * 63]), 2)


def test_planes_too_short_for_k_are_refused() -> None:
    with pytest.raises(ShapeError, match="do not have 65"):
        unpack_bit_planes(np.zeros((1, 1, 1), np.uint64), 65)
