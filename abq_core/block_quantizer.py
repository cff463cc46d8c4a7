"""One block on its way to integers: the values that the method learns, and the parameters that follow from them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.architectures import Architecture
from abq_core.artifacts import BlockArtifact
from abq_core.balance import Balance, HeadLayout
from abq_core.precision import Precision
from abq_core.quant_linear import linears_of
from abq_core.quantizers import fake_quant_weight, quantize_weight, weight_groups
from abq_core.spec import Switches

BALANCE_RATE = 5e-3
CLIPPING_RATE = 1e-2
_CLIP_START = 4.0  # sigmoid(4) = 0.982: almost no clipping


class BlockQuantizer:
    """Learned: log balance vectors, clipping logits, the compensation vectors. Everything else is derived.

    The balance is learned as its logarithm, so that it stays positive.
    """

    def __init__(
        self,
        block: nn.Module,
        architecture: Architecture,
        layout: HeadLayout,
        precision: Precision,
        switches: Switches,
        *,
        compensate: bool,
        input_peaks: Mapping[str, Tensor],
    ) -> None:
        self.precision = precision
        self.originals = {name: p.detach().float() for name, p in block.named_parameters()}
        self.linears = list(linears_of(block))
        self.balance = Balance(architecture, layout, block)
        self.log_balance: dict[str, Tensor] = {}
        if switches.balance != "none":
            start = self.balance.start(self.originals, input_peaks)
            self.log_balance = {
                name: s.log().requires_grad_(switches.balance == "learned") for name, s in start.items()
            }
        self.clip_low: dict[str, Tensor] = {}
        self.clip_high: dict[str, Tensor] = {}
        if switches.clipping and precision.quantizes_weights:
            for name in self.linears:
                rows, k = self.originals[f"{name}.weight"].shape
                shape = (rows, weight_groups(k, precision))
                self.clip_low[name] = torch.full(shape, _CLIP_START, requires_grad=True)
                self.clip_high[name] = torch.full(shape, _CLIP_START, requires_grad=True)
        self.compensation: tuple[Tensor, Tensor] | None = None
        if compensate and architecture.compensated in self.linears and precision.quantizes_weights:
            rows, k = self.originals[f"{architecture.compensated}.weight"].shape
            self.compensation = (torch.ones(rows, 1, requires_grad=True), torch.zeros(1, k, requires_grad=True))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer, each with its learning rate; empty where nothing is learned."""
        balance = [s for s in self.log_balance.values() if s.requires_grad]
        rest = [*self.clip_low.values(), *self.clip_high.values(), *(self.compensation or ())]
        groups = [{"params": balance, "lr": BALANCE_RATE}, {"params": rest, "lr": CLIPPING_RATE}]
        return [group for group in groups if group["params"]]

    def float_parameters(self) -> dict[str, Tensor]:
        """The block's parameters before rounding: balance folded in, compensation added."""
        values = {name: s.exp() for name, s in self.log_balance.items()}
        return before_rounding(self.balance, self.originals, values, self.compensation)

    def quantized_parameters(self) -> dict[str, Tensor]:
        """`float_parameters` with the weights of the linears fake-quantized; gradients reach all learned values."""
        parameters = self.float_parameters()
        if self.precision.quantizes_weights:
            for name in self.linears:
                key = f"{name}.weight"
                parameters[key] = fake_quant_weight(parameters[key], self.precision, *self._factors(name))
        return parameters

    @torch.no_grad()
    def artifact(self) -> BlockArtifact:
        """What is left when learning is over: integers and folded parameters."""
        parameters = self.float_parameters()
        weights = {}
        if self.precision.quantizes_weights:
            for name in self.linears:
                weights[name] = quantize_weight(parameters.pop(f"{name}.weight"), self.precision, *self._factors(name))
        learned = {f"balance.{name}": s.exp() for name, s in self.log_balance.items()}
        for name in self.clip_low:
            low, high = self._factors(name)
            assert low is not None and high is not None
            learned |= {f"clip_low.{name}": low, f"clip_high.{name}": high}
        if self.compensation is not None:
            learned |= dict(zip(("compensation_out", "compensation_in"), self.compensation, strict=True))
        return BlockArtifact(weights, parameters, {name: t.detach().clone() for name, t in learned.items()})

    def _factors(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        if name not in self.clip_low:
            return None, None
        return torch.sigmoid(self.clip_low[name]), torch.sigmoid(self.clip_high[name])


def before_rounding(
    balance: Balance,
    parameters: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    compensation: tuple[Tensor, Tensor] | None,
) -> dict[str, Tensor]:
    """A block's parameters with the balance values folded in (none: as they are) and the rank-1 term added.

    compensation: (rows, 1) and (1, k) vectors of the architecture's compensated linear, or None.
    """
    result = balance.fold(parameters, values) if values else dict(parameters)
    if compensation is not None:
        key, (out, into) = f"{balance.architecture.compensated}.weight", compensation
        result[key] = result[key] + out * into
    return result
