"""Sign descent inside the backward pass, for learned values as large as the model.

A value steps as soon as its gradient is known, so neither gradients nor optimizer states of all values exist at once.
AutoRound learns its rounding offsets by the sign of the gradient too (arXiv 2309.05516).
"""

from typing import Any

import torch
from torch import Tensor


class SignDescent:
    """Steps of a fixed length against the sign of the gradient, within -limit..limit.

    rate: the length of a step; changed between steps by a schedule.
    """

    def __init__(self, rate: float, limit: float) -> None:
        self.rate, self.limit = rate, limit

    def learn(self, value: Tensor) -> Tensor:
        """`value` in float32, to compute with; its backward pass does a step on `value`, in place.

        value: a leaf that requires gradients, float16 to save memory, or float32. It must be used once per step. Its
        `.grad` stays None.
        """
        learned: Tensor = _StepInBackward.apply(value, self)
        return learned

    def step(self, value: Tensor, gradient: Tensor) -> None:
        """Move `value` against the sign of its gradient, in place."""
        value.sub_(gradient.sign().mul_(self.rate).to(value.dtype)).clamp_(-self.limit, self.limit)


class _StepInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, descent: SignDescent) -> Tensor:
        ctx.value, ctx.descent = value, descent
        return value.to(torch.float32, copy=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        ctx.descent.step(ctx.value, gradients[0])
        return None, None
