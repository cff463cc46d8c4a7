"""A finished block without what follows from the model: learned values, and where rounding is not to nearest.

The examples that come with the program are stored in this form: a tenth of the size of the bit planes.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact
from abq_core.calibration.balance import Balance
from abq_core.calibration.block_quantizer import before_rounding
from abq_core.mix import block_precisions
from abq_core.models.architectures import architecture_of
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import quantize_weight
from abq_core.quantization.weight_grid import WeightGrid
from abq_core.spec import CalibrationSpec

_MOVED = "moved."


@torch.no_grad()
def unrounded_parameters(base: LoadedModel, block: nn.Module, artifact: BlockArtifact) -> dict[str, Tensor]:
    """The parameters of an artifact before rounding: those of the full-precision `block` with the learned values."""
    device = next(block.parameters()).device
    learned = {name: value.to(device) for name, value in artifact.learned.items()}
    values = {name.removeprefix("balance."): s for name, s in learned.items() if name.startswith("balance.")}
    compensation = None
    if "compensation_out" in learned:
        compensation = (learned["compensation_out"], learned["compensation_in"])
    balance = Balance(architecture_of(base.model), HeadLayout.of(base.model.config), block)
    parameters = {name: parameter.detach().float() for name, parameter in block.named_parameters()}
    return before_rounding(balance, parameters, values, compensation, artifact.hadamards)


def compact_block(
    base: LoadedModel, spec: CalibrationSpec, index: int, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The compact form of a finished block's tensors; `whole_block` is the inverse.

    Holds the learned values, and `moved.<linear>` (rows, k) int8 for each linear with learned rounding: its codes minus
    those that are rounded to nearest.
    """
    artifact = BlockArtifact.from_tensors(tensors)
    nearest, _ = _rounded(base, spec, index, artifact)
    moved = {name: weight.codes - nearest.weights[name].codes for name, weight in artifact.weights.items()}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("weights.", "parameters."))}
    return kept | {
        f"{_MOVED}{name}": difference.to(torch.int8) for name, difference in moved.items() if difference.any()
    }


def whole_block(
    base: LoadedModel, spec: CalibrationSpec, index: int, compact: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a finished block from its compact form.

    Equal bit for bit on the kind of processor that made the compact form; elsewhere a weight exactly between two levels
    may get the other one.
    """
    nearest, precisions = _rounded(base, spec, index, BlockArtifact.from_tensors(compact))
    moved = {name: compact.get(f"{_MOVED}{name}", 0) for name in nearest.weights}
    weights = {name: replace(weight, codes=weight.codes + moved[name]) for name, weight in nearest.weights.items()}
    return replace(nearest, weights=weights).to_tensors(precisions)


@torch.no_grad()
def _rounded(
    base: LoadedModel, spec: CalibrationSpec, index: int, artifact: BlockArtifact
) -> tuple[BlockArtifact, Mapping[str, Precision]]:
    """The artifact with every weight rounded to nearest on its grid, and the precision of each linear."""
    switches, learned, weights = spec.active_switches, artifact.learned, {}
    with base.block(index) as block:
        precisions = block_precisions(spec.precision, index, linears_of(block))
        parameters = unrounded_parameters(base, block, artifact)
    for name, precision in precisions.items():
        if precision.quantizes_weights:
            weight = parameters.pop(f"{name}.weight")
            clips = (learned.get(f"clip_{end}.{name}") for end in ("low", "high"))
            low, high = (None if clip is None else clip.to(weight.device) for clip in clips)
            grid = WeightGrid(low, high, symmetric=switches.symmetric, half_zero=switches.half_zero)
            rounded = quantize_weight(weight, precision, grid)
            weights[name] = replace(rounded, codes=rounded.codes.cpu())
    return replace(artifact, weights=weights, parameters=parameters), precisions
