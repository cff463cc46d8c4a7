"""Concatenated uploaded weights, with the emulator in place of the driver."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu

from kernels.cuda.device_tensors import DeviceWeight, upload
from kernels.cuda.engine import exact_integers, linear
from kernels.cuda.stacked import can_stack, stack
from kernels.formats.weight import pack_weight

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)
RANDOM = np.random.default_rng(3)
K = 300


def uploaded(
    n: int, planes: int, group_size: int | None = None, bias: bool = False, act_clip: float = 1.0
) -> DeviceWeight:
    groups = 1 if group_size is None else -(-K // group_size)
    scale = RANDOM.uniform(0.5, 1.5, (n, groups)).astype(np.float32)
    codes, zero = RANDOM.integers(0, 1 << planes, (n, K)), RANDOM.integers(0, 1 << planes, (n, groups))
    packed = pack_weight(codes, planes, scale, zero, group_size, scale[:, 0] if bias else None, 8, act_clip)
    return upload(packed, "cpu")  # the emulator's memory is the CPU's


@pytest.mark.parametrize("act_bits", [4, 8, 16])
def test_one_weight_with_the_rows_of_all(gpu: EmulatedGpu, act_bits: int) -> None:
    weights = [uploaded(32, 2), uploaded(16, 2, bias=True), uploaded(7, 2)]
    assert can_stack(weights)
    x = torch.from_numpy(RANDOM.standard_normal((2, K), np.float32))
    expected = torch.cat([linear(x, weight, act_bits) for weight in weights], dim=1)
    whole, parts = stack(weights)
    biases = 4 * (32 + 16)  # zeros for the weights without a bias
    assert whole.n == 55 and whole.nbytes - sum(w.nbytes for w in weights) == biases
    torch.testing.assert_close(linear(x, whole, act_bits), expected, rtol=0, atol=0)
    torch.testing.assert_close(
        torch.cat([linear(x, part, act_bits) for part in parts], dim=1), expected, rtol=0, atol=0
    )
    if act_bits < 16:
        totals = torch.cat([exact_integers(x, weight, act_bits) for weight in weights], dim=1)
        assert torch.equal(exact_integers(x, whole, act_bits), totals)
    for part in parts:
        for name in ("data", "scale", "zero", "sums"):
            view, all_rows = getattr(part, name), getattr(whole, name)
            assert view.is_contiguous() and view.untyped_storage().data_ptr() == all_rows.untyped_storage().data_ptr()


def test_weights_that_differ_in_more_than_rows_are_not_stacked() -> None:
    first = uploaded(16, 2)
    for other in (uploaded(16, 3), uploaded(16, 2, 128), uploaded(16, 2, act_clip=0.5), replace(first, k=K - 1)):
        assert not can_stack([first, other])
    assert not can_stack([first, replace(first, hadamard=4)])
    assert not can_stack([first, replace(first, spacing=2)])
    assert not can_stack([uploaded(16, 2, 128), uploaded(16, 2, 128)])  # their scales would be stored twice
    assert not can_stack([uploaded(7, 2), first]) and can_stack([first, uploaded(7, 2)])
