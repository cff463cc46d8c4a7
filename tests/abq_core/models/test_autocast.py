"""bfloat16 only where the processor has instructions for it."""

import pytest
import torch

from abq_core.models.autocast import bfloat16_products


@pytest.mark.parametrize(("has_it", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_multiplies_in_bfloat16_only_where_it_can(
    monkeypatch: pytest.MonkeyPatch, has_it: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_it)
    one = torch.ones(2, 2)
    with bfloat16_products(one.device):
        assert (one @ one).dtype == dtype
    assert (one @ one).dtype == torch.float32
