"""torch's undocumented functions exist with the expected signatures and results."""

import inspect

import pytest
import torch

from kernels.cuda import private_apis
from kernels.cuda.private_apis import CupyMissingError, cuda_bindings, int8_matmul


def test_the_int8_product_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (32, 64), generator=generator).to(torch.int8)
    b = torch.randint(-128, 128, (48, 64), generator=generator).to(torch.int8)
    expected = a.int() @ b.int().T
    assert torch.equal(int8_matmul(a, b.T), expected)
    out = torch.empty((32, 48), dtype=torch.int32)
    int8_matmul(a, b.T, out)
    assert torch.equal(out, expected)


def test_the_int4_kernels_have_the_arguments_that_are_passed() -> None:
    """They run on a GPU only; their schemas are known on every machine."""
    packing = torch.ops.aten._convert_weight_to_int4pack.default._schema
    product = torch.ops.aten._weight_int4pack_mm.default._schema
    assert [argument.name for argument in packing.arguments] == ["self", "innerKTiles"]
    assert [argument.name for argument in product.arguments] == ["self", "mat2", "qGroupSize", "qScaleAndZeros"]
    assert len(inspect.signature(private_apis.int4_matmul).parameters) == len(product.arguments)


def test_missing_cupy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(private_apis.importlib, "import_module", missing)
    private_apis.nvrtc.cache_clear()
    for bindings in (private_apis.nvrtc, cuda_bindings):
        with pytest.raises(CupyMissingError, match="No module named 'cupy_backends"):
            bindings()
    private_apis.nvrtc.cache_clear()
