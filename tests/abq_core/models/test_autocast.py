"""bfloat16 products only on processors with instructions for them."""

import pytest
import torch

from abq_core.models import autocast
from abq_core.models.autocast import bfloat16_products


@pytest.mark.parametrize(
    ("features", "dtype"), [({"avx512f", "avx512bf16"}, torch.bfloat16), ({"avx512f"}, torch.float32)]
)
def test_a_cpu_multiplies_in_bfloat16_only_with_hardware_support(
    monkeypatch: pytest.MonkeyPatch, features: set[str], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(autocast, "features", lambda: frozenset(features))
    one = torch.ones(2, 2)
    with bfloat16_products(one.device):
        assert (one @ one).dtype == dtype
    assert (one @ one).dtype == torch.float32


def test_cuda_always_multiplies_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, torch.dtype, bool]] = []
    monkeypatch.setattr(torch, "autocast", lambda device, dtype, enabled: opened.append((device, dtype, enabled)))
    bfloat16_products(torch.device("cuda"))
    assert opened == [("cuda", torch.bfloat16, True)]
