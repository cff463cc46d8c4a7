"""The quantized KV cache: attention, size and edge cases."""

import numpy as np
import pytest
from cpu_decode_cases import Floats, attended, attention, normal

from kernels.kv_codes import KvCodes


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("d", [5, 16])
def test_attention_on_codes_equals_attention_on_dequantized_values(bits: int, d: int) -> None:
    query, keys, values = normal(4, d), normal(2, 12, d), normal(2, 12, d)

    def rounded(x: Floats) -> Floats:
        low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
        scale = (high - low) / np.float32(2**bits - 1)
        zero = np.rint(-low / scale)
        return (np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1) - zero) * scale

    expected = attention(query, rounded(keys)[:, 2:], rounded(values)[:, 2:], 0.5)
    np.testing.assert_allclose(attended(query, keys, values, 2, 0.5, bits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bits", "d", "width"), [(8, 16, 8), (4, 16, 4), (3, 16, 4), (2, 16, 2), (2, 5, 8), (1, 8, 1)])
def test_size_of_codes(bits: int, d: int, width: int) -> None:
    assert KvCodes(2, 10, d, bits).nbytes == 2 * 2 * 10 * (d * width // 8 + 8)


def test_a_constant_channel_and_a_zero_token_stay_finite() -> None:
    keys = np.zeros((1, 2, 8), np.float32)
    keys[0, 1] = 3
    found = attended(np.ones((1, 8), np.float32), keys, keys, 1, 1.0, bits=4)
    np.testing.assert_allclose(found, np.full((1, 8), 3), rtol=1e-5)
