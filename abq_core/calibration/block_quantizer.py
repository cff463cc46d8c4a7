"""Learned values of one block, and the quantized parameters that follow from them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact
from abq_core.calibration.balance import Balance
from abq_core.calibration.sign_descent import SignDescent
from abq_core.models.architectures import Architecture
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.precision import Precision
from abq_core.quantization.hadamard import hadamard
from abq_core.quantization.plane_reading import fake_quant_fewer_planes, planes_to_drop
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import least_error_clipping, quantize_weight
from abq_core.quantization.weight_grid import WeightGrid, weight_groups
from abq_core.spec import Switches
from kernels.formats.hadamard_block import block_of

BALANCE_RATE = 5e-3
CLIPPING_RATE = 1e-2
ROUNDING_RATE = 5e-3
ACT_CLIPPING_RATE = 5e-3
_LARGEST_OFFSET = 0.5  # a weight is rounded to one of its two neighbouring levels
_SMALLEST_ACT_CLIP = 0.1
_CLIP_START = 4.0  # sigmoid(4) = 0.982: almost no clipping


class BlockQuantizer:
    """Holds the learned values of a block and derives its parameters from them.

    Learned are log balance vectors (so that the balance stays positive), clipping logits, rounding offsets, factors on
    the range of activations, and the compensation vectors.  precisions: of every linear of the block.  compensate: add
    the rank-1 compensation.  input_peaks: max|X| per input channel, by linear.  `quantized` lists the linears whose
    weights become integers.
    """

    def __init__(
        self,
        block: nn.Module,
        architecture: Architecture,
        layout: HeadLayout,
        precisions: Mapping[str, Precision],
        switches: Switches,
        *,
        compensate: bool,
        input_peaks: Mapping[str, Tensor],
    ) -> None:
        self.precisions = precisions
        self._levels = WeightGrid(symmetric=switches.symmetric, half_zero=switches.half_zero)
        self._nested = switches.nested
        self._step = 0
        self.hold(block)
        self._device = next(iter(self.originals.values())).device
        self.quantized = [name for name in linears_of(block) if precisions[name].quantizes_weights]
        self.balance = Balance(architecture, layout, block)
        quantized_inputs = [name for name in linears_of(block) if precisions[name].quantizes_activations]
        transformed = quantized_inputs if switches.hadamard else []
        self.hadamards = {name: block_of(self.originals[f"{name}.weight"].shape[1]) for name in transformed}
        self.log_balance: dict[str, Tensor] = {}
        if switches.balance != "none":
            start = self.balance.start(self.originals, input_peaks)
            self.log_balance = {
                name: s.to(self._device).log().requires_grad_(switches.balance == "learned")
                for name, s in start.items()
            }
        self.compensation: tuple[Tensor, Tensor] | None = None
        if compensate and architecture.compensated in self.quantized:
            rows, k = self.originals[f"{architecture.compensated}.weight"].shape
            out, into = torch.ones(rows, 1, device=self._device), torch.zeros(1, k, device=self._device)
            self.compensation = (out.requires_grad_(), into.requires_grad_())
        clips = switches.clipping or switches.clip_search
        starts = self._clip_starts(switches.clip_search) if clips else {}
        self.clip_low = {name: start.clone().requires_grad_(switches.clipping) for name, start in starts.items()}
        self.clip_high = {name: start.clone().requires_grad_(switches.clipping) for name, start in starts.items()}
        self.act_clips = {
            name: torch.ones((), device=self._device, requires_grad=True)
            for name in (quantized_inputs if switches.act_clipping else [])
        }
        rounded = self.quantized if switches.rounding else []
        self.offsets = {
            name: torch.zeros_like(self.originals[f"{name}.weight"], requires_grad=True) for name in rounded
        }

    @torch.no_grad()
    def _clip_starts(self, search: bool) -> dict[str, Tensor]:
        """Initial logits of the clipping factors, (rows, groups) per quantized linear.

        The lower and the upper end start equal.
        """
        starts = {}
        parameters = self.float_parameters()
        for name in self.quantized:
            weight, precision = parameters[f"{name}.weight"], self.precisions[name]
            if search:
                found = least_error_clipping(weight, precision, self._levels)
                starts[name] = torch.logit(found).clamp(max=_CLIP_START)
            else:
                shape = (weight.shape[0], weight_groups(weight.shape[1], precision))
                starts[name] = torch.full(shape, _CLIP_START, device=weight.device)
        return starts

    def hold(self, block: nn.Module) -> None:
        """Read the parameters of the block, in float32: all but the learned values are derived from them."""
        self.originals = {name: p.detach().float() for name, p in block.named_parameters()}

    def release(self) -> None:
        """Drop the parameters until the next `hold`, so that blocks can share the memory for them."""
        self.originals = {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups, each with its learning rate and switch; empty if nothing is learned."""
        clips = [*self.clip_low.values(), *self.clip_high.values(), *(self.compensation or ())]
        rates: list[tuple[str, float, list[Tensor]]] = [
            ("balance", BALANCE_RATE, list(self.log_balance.values())),
            ("clipping", CLIPPING_RATE, clips),
            ("rounding", ROUNDING_RATE, list(self.offsets.values())),
            ("act_clipping", ACT_CLIPPING_RATE, list(self.act_clips.values())),
        ]
        groups = [
            {"params": [p for p in values if p.requires_grad], "lr": rate, "switch": switch}
            for switch, rate, values in rates
        ]
        return [group for group in groups if group["params"]]

    @torch.no_grad()
    def after_step(self, largest_offset: float = _LARGEST_OFFSET) -> None:
        """Clamp the learned values to their bounds after an optimizer step.

        largest_offset: in steps of the grid.
        """
        for offset in self.offsets.values():
            offset.clamp_(-largest_offset, largest_offset)
        for clip in self.act_clips.values():
            clip.clamp_(_SMALLEST_ACT_CLIP, 1)

    def begin_step(self, step: int) -> None:
        """Read weights at fewer planes in this optimizer step if it is one for that, with the switch `nested`."""
        self._step = step

    def float_parameters(self) -> dict[str, Tensor]:
        """The block's parameters before rounding; see `before_rounding`."""
        values = {name: s.exp() for name, s in self.log_balance.items()}
        return before_rounding(self.balance, self.originals, values, self.compensation, self.hadamards)

    def quantized_parameters(self, signs: SignDescent | None = None) -> dict[str, Tensor]:
        """`float_parameters` with fake-quantized weights, and the clips of the activations.

        Gradients reach all learned values; offsets step in the backward pass if `signs` is given.
        """
        parameters = self.float_parameters() | {f"{name}.act_clip": clip for name, clip in self.act_clips.items()}
        for name in self.quantized:
            key = f"{name}.weight"
            precision = self.precisions[name]
            dropped = planes_to_drop(precision, self._step) if self._nested else 0
            parameters[key] = fake_quant_fewer_planes(parameters[key], precision, self._grid(name, signs), dropped)
        return parameters

    def shrink_offsets(self) -> None:
        """Convert the rounding offsets to float16; from then on they can learn by `SignDescent` only."""
        self.offsets = {name: offset.detach().half().requires_grad_() for name, offset in self.offsets.items()}

    @torch.no_grad()
    def artifact(self) -> BlockArtifact:
        """The result of learning: integer weights and folded parameters."""
        parameters = self.float_parameters()
        weights = {
            name: quantize_weight(parameters.pop(f"{name}.weight"), self.precisions[name], self._grid(name))
            for name in self.quantized
        }
        learned = {f"balance.{name}": s.exp() for name, s in self.log_balance.items()}
        for name in self.clip_low:
            learned |= {f"clip_low.{name}": torch.sigmoid(self.clip_low[name])}
            learned |= {f"clip_high.{name}": torch.sigmoid(self.clip_high[name])}
        if self.compensation is not None:
            learned |= dict(zip(("compensation_out", "compensation_in"), self.compensation, strict=True))
        act_clips = {name: clip.detach().clone() for name, clip in self.act_clips.items()}
        learned = {name: tensor.detach().clone() for name, tensor in learned.items()}
        return BlockArtifact(weights, parameters, learned, act_clips, self.hadamards)

    def state(self) -> dict[str, Tensor]:
        """A copy of all learned values, from which `load_state` continues bit for bit."""
        return {name: tensor.detach().clone() for name, tensor in self._learned().items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the learned values that `state` returned."""
        for name, tensor in self._learned().items():
            tensor.copy_(tensors[name])

    def _learned(self) -> dict[str, Tensor]:
        kinds = {
            "log_balance": self.log_balance,
            "clip_low": self.clip_low,
            "clip_high": self.clip_high,
            "offset": self.offsets,
            "act_clip": self.act_clips,
            "compensation": dict(zip(("out", "in"), self.compensation or (), strict=False)),
        }
        return {f"{kind}.{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}

    def _grid(self, name: str, signs: SignDescent | None = None) -> WeightGrid:
        clips = self.clip_low.get(name), self.clip_high.get(name)
        low, high = (None if logits is None else torch.sigmoid(logits) for logits in clips)
        offset = self.offsets.get(name)
        if offset is not None:
            offset = offset.float() if signs is None else signs.learn(offset)
        return replace(self._levels, clip_low=low, clip_high=high, offset=offset)


def before_rounding(
    balance: Balance,
    parameters: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    compensation: tuple[Tensor, Tensor] | None,
    hadamards: Mapping[str, int],
) -> dict[str, Tensor]:
    """A block's parameters before rounding.

    The balance is folded in, compensation is added, and columns are transformed.
    values: of the balance; empty for none.  compensation: (rows, 1) and (1, k) vectors of the architecture's
    compensated linear, or None.  hadamards: channels per block of the transform, by linear.
    """
    result = balance.fold(parameters, values) if values else dict(parameters)
    if compensation is not None:
        key, (out, into) = f"{balance.architecture.compensated}.weight", compensation
        result[key] = result[key] + out * into
    for name, channels in hadamards.items():
        result[f"{name}.weight"] = hadamard(result[f"{name}.weight"], channels)
    return result
