"""Stacked weights: one weight with the rows of several."""

from dataclasses import replace

import numpy as np
from cpu_decode_cases import RANDOM, normal

from kernels.dispatch import linear
from kernels.formats.stacked import can_stack, stack
from kernels.formats.weight import PackedWeight, pack_weight


def packed(n: int, planes: int, group_size: int | None = None, bias: bool = False, clip: float = 1.0) -> PackedWeight:
    groups = 1 if group_size is None else -(-96 // group_size)
    scale = RANDOM.uniform(0.5, 1.5, (n, groups)).astype(np.float32)
    codes, zero = RANDOM.integers(0, 1 << planes, (n, 96)), RANDOM.integers(0, 1 << planes, (n, groups))
    return pack_weight(codes, planes, scale, zero, group_size, scale[:, 0] if bias else None, 8, clip)


def test_a_stacked_weight_has_the_rows_of_all() -> None:
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


def test_weights_that_differ_beyond_rows_cannot_be_stacked() -> None:
    first = packed(16, 3)
    for other in (packed(16, 2), packed(16, 3, 32), packed(16, 3, clip=0.5)):
        assert not can_stack([first, other])
    assert not can_stack([first, replace(first, spacing=2)])
    assert not can_stack([packed(16, 3, 32), packed(16, 3, 32)])  # their scales would be stored twice
    assert not can_stack([packed(7, 3), first]) and can_stack([first, packed(7, 3)])
