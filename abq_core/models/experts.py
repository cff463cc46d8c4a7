"""Mixtures of experts, taken apart into linears: transformers keeps all experts of a block in two 3-D parameters.

With a linear for each, experts are quantized, balanced, stored and packed as everything else is. What decides between
experts stays no `nn.Linear`, so that it is never quantized.
"""

from typing import Any

import torch
from torch import Tensor, nn

from abq_core.quantization.quant_linear import replace_module


class Expert(nn.Module):
    """One gated MLP."""

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, act: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = _linear(gate), _linear(up), _linear(down)
        self.act_fn = act

    def forward(self, x: Tensor) -> Tensor:
        """x (tokens, hidden) -> (tokens, hidden)."""
        output: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return output


class Experts(nn.ModuleList):
    """The experts of a block; an expert that no token is sent to does not run."""

    @classmethod
    def split(cls, fused: Any) -> "Experts":
        """From transformers' module: gate_up_proj (experts, 2 * inner, hidden), down_proj (experts, hidden, inner).

        The linears share its memory.
        """
        gates, ups = fused.gate_up_proj.detach().chunk(2, dim=1)
        parts = zip(gates, ups, fused.down_proj.detach(), strict=True)
        return cls(Expert(gate, up, down, fused.act_fn) for gate, up, down in parts)

    def forward(self, hidden: Tensor, chosen: Tensor, share: Tensor) -> Tensor:
        """hidden (tokens, hidden), the experts of each token (tokens, k) int64, and their shares (tokens, k)."""
        output = torch.zeros_like(hidden)
        for number in chosen.unique().tolist():
            token, place = torch.where(chosen == number)
            result = self[number](hidden[token]) * share[token, place].unsqueeze(1)
            output = output.index_add(0, token, result.to(output.dtype))
        return output


class SharedExpertGate(nn.Module):
    """How much the expert that sees every token counts: one logit per token."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """x (..., hidden) -> (..., 1)."""
        return nn.functional.linear(x, self.weight)


def split_experts(model: nn.Module) -> None:
    """Take the experts of all blocks apart, in place; the function of the model stays. Nothing where there are none."""
    for name, module in list(model.named_modules()):
        weight = getattr(module, "gate_up_proj", None)
        if isinstance(weight, Tensor) and weight.ndim == 3:
            replace_module(model, name, Experts.split(module))
        elif name.endswith(".shared_expert_gate") and isinstance(module, nn.Linear):
            replace_module(model, name, SharedExpertGate(module))


def _linear(weight: Tensor) -> nn.Linear:
    rows, k = weight.shape
    linear = nn.Linear(k, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=weight.requires_grad)
    return linear
