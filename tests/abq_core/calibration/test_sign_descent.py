"""Values that step in the backward pass, against the sign of their gradient."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from abq_core.calibration.sign_descent import SignDescent


def learned(*values: float, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_value_steps_once_against_the_sign_of_its_gradient(dtype: torch.dtype, checkpointed: bool) -> None:
    descent, value = SignDescent(rate=0.25, limit=1.0), learned(0.5, 0.5, 0.5, dtype=dtype)
    factor = torch.tensor([1e-30, -3.0, 0.0])

    def loss() -> torch.Tensor:
        return (descent.learn(value) * factor).sum()

    before = checkpoint(loss, use_reentrant=False) if checkpointed else loss()
    assert before.item() == pytest.approx(-1.5), "nothing moves before the backward pass"
    before.backward()
    assert value.tolist() == [0.25, 0.75, 0.5] and value.dtype == dtype
    assert value.grad is None


def test_a_value_stays_within_the_limit() -> None:
    descent, value = SignDescent(rate=0.25, limit=0.5), learned(0.5, -0.5, 0.4)
    (descent.learn(value) * torch.tensor([-1.0, 1.0, -1.0])).sum().backward()
    assert value.tolist() == [0.5, -0.5, 0.5]


def test_the_rate_may_change_between_steps() -> None:
    descent, value = SignDescent(rate=0.5, limit=1.0), learned(0.0)
    for rate in (0.5, 0.25):
        descent.rate = rate
        descent.learn(value).sum().backward()
    assert value.item() == -0.75
