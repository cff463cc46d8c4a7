import pytest
import torch

from abq_core.quantization.exact_dtype import narrowest


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, 2.0**-100], torch.bfloat16),  # below what float16 can hold
        ([1.0, 1 + 2**-10], torch.float16),  # more digits than bfloat16 has
        ([1.0, 1 + 2**-20], torch.float32),
        ([2.0**-100, 1 + 2**-10], torch.float32),
    ],
)
def test_the_narrowest_dtype_holds_every_value(values: list[float], dtype: torch.dtype) -> None:
    tensor = torch.tensor(values)
    result = narrowest(tensor)
    assert result.dtype == dtype
    assert torch.equal(result.float(), tensor)
