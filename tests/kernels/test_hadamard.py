"""The Hadamard transform.

Its matrix, bit equality of all implementations, and products of transformed tokens.
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from instruction_sets import OTHERS, run_with
from scipy.linalg import hadamard

from kernels import dispatch
from kernels import hadamard as door
from kernels.cpu import engine
from kernels.dispatch import DEQUANTIZED, NUMPY, exact_integers, linear
from kernels.formats.activations import NotFiniteError
from kernels.formats.hadamard_block import block_of, is_block_of
from kernels.formats.stacked import can_stack
from kernels.formats.weight import PackedWeight, pack_weight
from kernels.hadamard import transformed, transformed_tensor

RANDOM = np.random.default_rng(5)
BLOCKS = [2**i for i in range(9)]


def tokens(m: int, k: int) -> np.ndarray:
    return RANDOM.standard_normal((m, k), np.float32)


def weight(k: int, block: int, codes: np.ndarray | None = None) -> PackedWeight:
    codes = RANDOM.integers(0, 4, (37, k)) if codes is None else codes
    return pack_weight(codes, 2, np.full(37, 0.1, np.float32), np.full(37, 2), act_clip=0.9, hadamard=block)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_transform_is_sylvesters_matrix_over_the_root_of_its_size(block: int) -> None:
    x = tokens(3, 3 * block)
    expected = x.reshape(3, 3, block).astype(float) @ hadamard(block) / np.sqrt(block)
    np.testing.assert_allclose(transformed(x, block), expected.reshape(x.shape), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(transformed(transformed(x, block), block), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", BLOCKS)
def test_tensors_and_any_number_of_threads_are_bit_equal(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    x = tokens(5, 3 * block)
    alone = transformed(x, block)
    assert np.array_equal(transformed_tensor(torch.from_numpy(x), block).numpy(), alone)
    monkeypatch.setattr(door, "_WORTH_A_THREAD", 0)
    assert np.array_equal(transformed(x, block), alone)


def test_the_block_is_the_largest_power_of_two_that_divides_the_row() -> None:
    assert [block_of(k) for k in (1, 7, 12, 768, 896, 11008, 4096)] == [1, 1, 4, 256, 128, 256, 256]
    assert all(is_block_of(block_of(k), k) for k in range(1, 2000))
    assert not any(is_block_of(block, 1024) for block in (0, 3, 24, 512, -2))


@pytest.mark.parametrize(
    ("path", "act_bits"), [(engine.DOT, 8), (engine.GEMM, 4), (NUMPY, 8), (DEQUANTIZED, 16), (NUMPY, 16)]
)
@pytest.mark.parametrize(("k", "block"), [(96, 32), (512, 256), (40, 8)])
def test_every_path_multiplies_the_transformed_tokens(path: str, act_bits: int, k: int, block: int) -> None:
    behind = weight(k, block)
    plain = weight(k, 1, behind.codes())
    x = tokens(9, k)
    with patch.object(dispatch, "path_for", lambda weight, m, act_bits: path):
        assert np.array_equal(linear(x, behind, act_bits), linear(transformed(x, block), plain, act_bits))
    if act_bits < 16:
        expected = exact_integers(transformed(x, block), plain, act_bits)
        assert np.array_equal(exact_integers(x, behind, act_bits), expected)


def test_transforming_both_sides_preserves_the_product() -> None:
    x, full = tokens(4, 384), tokens(37, 384)
    np.testing.assert_allclose(transformed(x, 128) @ transformed(full, 128).T, x @ full.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_error_names_the_position_of_a_value_that_is_not_finite(bad: float) -> None:
    x = tokens(3, 64)
    x[1, 40] = bad
    for act_bits in (8, 16):
        with pytest.raises(NotFiniteError, match=rf"Row 1 of an input \(3, 64\) has {bad} in column 40"):
            linear(x, weight(64, 64), act_bits)


def test_weights_with_different_transforms_cannot_be_stacked() -> None:
    assert not can_stack([weight(64, 64), weight(64, 1)])


@pytest.mark.parametrize("name", OTHERS)
def test_other_instruction_sets_compute_the_same_matrix(name: str) -> None:
    test = "test_the_transform_is_sylvesters_matrix_over_the_root_of_its_size"
    run_with(name, f"from test_hadamard import *\nfor block in BLOCKS: {test}(block)")
