"""The fragment order of weights: round trips, and the position of each bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cuda.fragments import pack_fragments, to_fragments, unpack_fragments
from kernels.formats.planes import ShapeError
from kernels.formats.weight import PackedWeight, pack_weight


def random_codes(seed: int, n: int, k: int, planes: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << planes, (n, k), dtype=np.uint16)


def packed(n: int, k: int, planes: int, group_size: int | None = None, bias: bool = False) -> PackedWeight:
    random = np.random.default_rng(n + k)
    groups = 1 if group_size is None else -(-k // group_size)
    zero = random.integers(0, 1 << planes, (n, groups))
    scale = random.uniform(0.5, 1.5, (n, groups)).astype(np.float32)
    return pack_weight(random_codes(k, n, k, planes), planes, scale, zero, group_size, scale[:, 0] if bias else None)


@settings(max_examples=40, deadline=None)
@given(planes=st.integers(1, 9), n=st.integers(1, 50), k=st.integers(1, 600), seed=st.integers(0, 99))
def test_unpacking_inverts_packing(planes: int, n: int, k: int, seed: int) -> None:
    codes = random_codes(seed, n, k, planes)
    data = pack_fragments(codes, planes)
    assert data.shape == (-(-n // 16), -(-k // 256), planes, 32, 4)
    assert np.array_equal(unpack_fragments(data, n, k), codes)


def test_the_position_of_every_bit() -> None:
    for row, column in [(0, 0), (9, 0), (3, 200), (15, 255), (8, 127), (7, 128), (5, 77)]:
        codes = np.zeros((16, 256), np.uint16)
        codes[row, column] = 0b10
        data = pack_fragments(codes, 2)
        half, within = divmod(column, 128)
        r, t, c = within // 16, within // 4 % 4, within % 4
        assert data[0, 0, 1, 4 * (row % 8) + t, 2 * half + row // 8] == 1 << (r + 8 * c)
        assert np.count_nonzero(data) == 1


def test_padding_is_zero() -> None:
    data = pack_fragments(np.full((17, 257), 3, np.uint16), 2)
    whole = unpack_fragments(data, 32, 512)
    assert whole[:17, :257].min() == 3
    assert not whole[17:].any() and not whole[:, 257:].any()


@pytest.mark.parametrize("group_size", [None, 32, 128, 96])
def test_scales_zeros_sums_and_bias(group_size: int | None) -> None:
    weight = packed(37, 300, 4, group_size, bias=True)
    fragments = to_fragments(weight)
    assert fragments.groups == weight.groups
    assert np.array_equal(fragments.scale[:, :37], weight.scale.T)
    assert np.array_equal(fragments.zero[:, :37], weight.zero.T)
    assert np.array_equal(fragments.sums, weight.panel_sum.reshape(weight.groups, -1)[:, :48])
    assert fragments.bias is not None and np.array_equal(fragments.bias[:37], weight.bias)
    assert np.array_equal(unpack_fragments(fragments.data, 37, 300), weight.codes())


def test_packed_size_is_one_bit_per_weight_and_plane() -> None:
    weight = packed(64, 512, 3)
    fragments = to_fragments(weight)
    assert fragments.data.nbytes == 64 * 512 * 3 // 8
    assert fragments.nbytes == fragments.data.nbytes + 64 * (4 + 2 + 4)


def test_rows_too_long_for_int32_are_split_into_segments() -> None:
    codes = np.full((16, 70_000), 511, np.uint16)
    weight = pack_weight(codes, 9, np.ones((16, 1), np.float32), np.zeros((16, 1), int))
    fragments = to_fragments(weight)
    assert fragments.segment % 256 == 0 and fragments.groups == -(-70_000 // fragments.segment) > 1
    assert fragments.segment * 255 * 511 < 2**31
    assert fragments.sums[:, 0].astype(np.int64).sum() == 70_000 * 511


def test_fragments_smaller_than_the_weight_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"do not hold a weight \(17, 256\)"):
        unpack_fragments(np.zeros((1, 1, 2, 32, 4), np.uint32), 17, 256)
