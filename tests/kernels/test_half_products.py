"""Products with 16-bit weights, compared with NumPy."""

import numpy as np
import pytest
from cpu_decode_cases import normal

from kernels import half_products
from kernels.formats.planes import ShapeError


@pytest.mark.parametrize("rows", [1, 63, 130])
@pytest.mark.parametrize("threads", [1, 2])
def test_bfloat16_product(rows: int, threads: int) -> None:
    bits = (normal(rows, 70).view(np.uint32) >> 16).astype(np.uint16)
    weight = (bits.astype(np.uint32) << 16).view(np.float32)
    x = normal(70)
    np.testing.assert_allclose(half_products.bfloat16_product(bits, x, threads), weight @ x, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match=r"\(69,\)"):
        half_products.bfloat16_product(bits, x[:69])


@pytest.mark.parametrize("rows", [1, 63, 130])
@pytest.mark.parametrize("threads", [1, 2])
def test_float16_product(rows: int, threads: int) -> None:
    weight, x = normal(rows, 70).astype(np.float16), normal(70)
    found = half_products.float16_product(weight.view(np.uint16), x, threads)
    np.testing.assert_allclose(found, weight.astype(np.float32) @ x, rtol=1e-4, atol=1e-4)
    with pytest.raises(ShapeError, match=r"\(69,\)"):
        half_products.float16_product(weight.view(np.uint16), x[:69])


def test_float16_product_reads_every_finite_value() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))][:, None]
    found = half_products.float16_product(bits, np.ones(1, np.float32), 1)
    np.testing.assert_array_equal(found, bits.view(np.float16).astype(np.float32)[:, 0])
