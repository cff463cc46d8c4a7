"""Packed weights: round trip of every layout, size in memory, and invalid arguments."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.dispatch import look_up
from kernels.formats.planes import ShapeError
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.host.processor import target


def packed(codes: np.ndarray, planes: int, group_size: int | None = None, act_bits: int = 8) -> PackedWeight:
    n, k = codes.shape
    groups = 1 if group_size is None else -(-k // group_size)
    return pack_weight(
        codes, planes, np.ones((n, groups), np.float32), np.zeros((n, groups), int), group_size, None, act_bits
    )


@settings(max_examples=80, deadline=None)
@given(
    planes=st.integers(1, 9),
    act_bits=st.integers(1, 8),
    n=st.integers(1, 50),
    k=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_codes_undo_pack(planes: int, act_bits: int, n: int, k: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << planes, (n, k), dtype=np.uint16)
    weight = packed(codes, planes, None, act_bits)
    assert np.array_equal(weight.codes(), codes)
    assert np.array_equal(weight.codes(n // 3, n - n // 4), codes[n // 3 : n - n // 4])


@pytest.mark.parametrize("products", [0, 1, 3, 7])
def test_few_bits_are_stored_in_planes_if_bit_serial_is_faster(products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, this = np.zeros((32, 64), np.uint8), replace(target(), serial_products=products)
    monkeypatch.setattr("kernels.host.processor.target", lambda: this)
    assert packed(codes, 3, act_bits=1).widths.tolist() == ([1, 1, 1] if products >= 3 else [2, 1])
    assert packed(codes, 2, act_bits=2).widths.tolist() == ([1, 1] if products >= 4 else [2])
    assert packed(codes, 2, act_bits=4).widths.tolist() == [2]
    assert packed(codes, 7, act_bits=8).widths.tolist() == [4, 2, 1]


@pytest.mark.parametrize("planes", range(1, 10))
@pytest.mark.parametrize("act_bits", [1, 8])
def test_the_reported_size_is_the_size_in_memory(planes: int, act_bits: int) -> None:
    codes = np.zeros((64, 256), np.uint8)
    weight = packed(codes, planes, None, act_bits)
    assert weight.data.nbytes == 64 * 256 * planes // 8
    assert weight.nbytes == weight.data.nbytes + 64 * (4 + 2 + 4)
    held = {id(a.base if a.base is not None else a): a for a in vars(weight).values() if isinstance(a, np.ndarray)}
    assert sum(a.nbytes for a in held.values()) == weight.nbytes + weight.widths.nbytes


@settings(max_examples=60, deadline=None)
@given(
    planes=st.integers(1, 9),
    n=st.integers(1, 50),
    k=st.integers(1, 200),
    group_size=st.sampled_from([None, 32, 64]),
    spacing=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_are_looked_up_as_they_are_dequantized(
    planes: int, n: int, k: int, group_size: int | None, spacing: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    groups = 1 if group_size is None else -(-k // group_size)
    codes = random.integers(0, 1 << planes, (n, k), dtype=np.uint16)
    zero = random.integers(0, spacing * ((1 << planes) - 1) + 1, (n, groups))
    scale = random.uniform(0.1, 2, (n, groups)).astype(np.float32)
    weight = pack_weight(codes, planes, scale, zero, group_size, spacing=spacing)
    ids = random.integers(0, n, int(random.integers(0, 20)))
    assert np.array_equal(look_up(weight, ids), weight.dequantize()[ids])
    assert np.array_equal(look_up(weight, np.arange(n, dtype=np.int32)), weight.dequantize())


@pytest.mark.parametrize("ids", [[3], [-1], [0, 99], [[0, 1]], [0.5]])
def test_only_rows_can_be_looked_up(ids: list[Any]) -> None:
    with pytest.raises(ShapeError, match="rows"):
        look_up(packed(np.zeros((3, 32), np.uint8), 2), np.array(ids))


def test_groups_are_counted_in_the_size() -> None:
    weight = packed(np.zeros((32, 256), np.uint8), 2, 64)
    assert weight.nbytes == 32 * 256 * 2 // 8 + 32 * 4 * (4 + 2 + 4)


@pytest.mark.parametrize("spacing", [1, 2])
def test_dequantize_is_codes_minus_zero_times_scale(spacing: int) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 5, (20, 100), dtype=np.uint8)
    scale = random.uniform(0.1, 1, (20, 4)).astype(np.float32)
    zero = random.integers(0, 5 * spacing, (20, 4))
    weight = pack_weight(codes, 3, scale, zero, 32, spacing=spacing)
    levels = spacing * codes
    expected = [(levels[:, g * 32 : g * 32 + 32] - zero[:, [g]]).astype(np.float32) * scale[:, [g]] for g in range(4)]
    assert np.array_equal(weight.dequantize(), np.concatenate(expected, axis=1))
    assert np.array_equal(weight.dequantize(3, 19), np.concatenate(expected, axis=1)[3:19])
    assert np.array_equal(weight.scale, scale)
    assert np.array_equal(weight.zero, zero)


def test_scale_and_zero_may_be_one_per_row() -> None:
    weight = pack_weight(np.ones((3, 8), np.uint8), 1, np.full(3, 2.0, np.float32), np.zeros(3, int))
    assert np.array_equal(weight.dequantize(), np.full((3, 8), 2.0, np.float32))


ONES = np.ones((4, 1), np.float32)
ZEROS = np.zeros((4, 1), int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planes": 0}, "1..9 bit planes, got 0"),
        ({"planes": 10}, "1..9 bit planes, got 10"),
        ({"codes": np.full((4, 64), 4)}, "do not fit 2 bit planes"),
        ({"codes": np.full((4, 64), -1)}, "do not fit 2 bit planes"),
        ({"codes": np.zeros((4, 64))}, "integers, got float64"),
        ({"codes": np.zeros((0, 64), int)}, "non-empty"),
        ({"codes": np.zeros(64, int)}, "non-empty"),
        ({"scale": np.ones((3, 1))}, r"scale has shape \(3, 1\), expected \(4, 1\)"),
        ({"zero": np.zeros((4, 2), int)}, r"zero has shape \(4, 2\), expected \(4, 1\)"),
        ({"zero": np.full((4, 1), 4)}, r"zero points 4\.\.4 are not among the levels 0\.\.3"),
        ({"zero": np.full((4, 1), 7), "spacing": 2}, r"zero points 7\.\.7 are not among the levels 0\.\.6"),
        ({"spacing": 3}, "spacing is 3; use 1, 2 "),
        ({"spacing": 8192}, "a power of two up to 4096"),
        ({"spacing": 8, "zero": np.full((4, 1), 29)}, r"zero points 29\.\.29 are not among the levels -4\.\.28"),
        ({"group_size": 48}, "48 is not a multiple of 32"),
        ({"group_size": 0}, "0 is not a multiple of 32"),
        ({"group_size": 1 << 22}, "could overflow"),
        ({"bias": np.zeros(5, np.float32)}, r"bias has shape \(5,\)"),
        ({"hadamard": 128}, "64 columns do not divide into Hadamard blocks of 128"),
        ({"hadamard": 24}, "do not divide into Hadamard blocks of 24"),
        ({"hadamard": 0}, "do not divide into Hadamard blocks of 0"),
        ({"scale": np.array([1, 1, np.nan, 1])}, "the scale of row 2 is nan"),
        ({"bias": np.array([1, np.inf, 1, 1])}, "the bias of row 1 is inf"),
    ],
)
def test_invalid_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"codes": np.zeros((4, 64), int), "planes": 2, "scale": ONES, "zero": ZEROS}
    with pytest.raises(ShapeError, match=message):
        pack_weight(**{**arguments, **change})
