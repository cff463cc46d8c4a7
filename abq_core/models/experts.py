"""Split mixtures of experts into linears.

transformers stores all experts of a block in two 3-D parameters.

With separate linears, experts are quantized, balanced, stored and packed like every other linear. The router and the
gate of a shared expert are not `nn.Linear`, so they are never quantized.
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
        """Map x (tokens, hidden) to (tokens, hidden)."""
        output: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return output


class Experts(nn.ModuleList):
    """The experts of a block; an expert without tokens does not run."""

    @classmethod
    def from_fused(cls, fused: Any) -> "Experts":
        """Split transformers' fused module.

        fused: gate_up_proj (experts, 2 * inner, hidden), down_proj (experts, hidden, inner).

        The linears share its memory.
        """
        gates, ups = fused.gate_up_proj.detach().chunk(2, dim=1)
        parts = zip(gates, ups, fused.down_proj.detach(), strict=True)
        return cls(Expert(gate, up, down, fused.act_fn) for gate, up, down in parts)

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Sum the weighted outputs of each token's experts.

        hidden (tokens, hidden); top_k_index (tokens, k) int64; top_k_weights (tokens, k). Returns (tokens, hidden).
        """
        output = torch.zeros_like(hidden)
        for expert in top_k_index.unique().tolist():
            token, rank = torch.where(top_k_index == expert)
            result = self[expert](hidden[token]) * top_k_weights[token, rank].unsqueeze(1)
            output = output.index_add(0, token, result.to(output.dtype))
        return output


class SharedExpertGate(nn.Module):
    """The gate of the shared expert: one logit per token.

    Not an `nn.Linear`, so that it is not quantized.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., hidden) to (..., 1)."""
        return nn.functional.linear(x, self.weight)


def split_experts(model: nn.Module) -> None:
    """Replace the fused experts of all blocks by Experts, in place.

    Outputs are unchanged; a dense model is not modified.
    """
    for name, module in list(model.named_modules()):
        weight = getattr(module, "gate_up_proj", None)
        if isinstance(weight, Tensor) and weight.ndim == 3:
            replace_module(model, name, Experts.from_fused(module))
        elif name.endswith(".shared_expert_gate") and isinstance(module, nn.Linear):
            replace_module(model, name, SharedExpertGate(module))


def _linear(weight: Tensor) -> nn.Linear:
    rows, k = weight.shape
    linear = nn.Linear(k, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=weight.requires_grad)
    return linear
