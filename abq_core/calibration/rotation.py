"""Rotations that are folded into the weights, so that they cost nothing at run time: QuaRot's R1 and R2.

Y = X W = (X Q)(Q'W) for an orthogonal Q and its transpose Q' (arXiv 2404.00456). R1 rotates the residual stream: the
output of all linears that write to it, and the input of all that read it. R2 rotates the values of each attention head,
between value and output projection. Both spread outliers over many channels, as the Hadamard transform does at run
time. The input of an MLP's last linear is not rotated: a rotation does not commute with an activation function.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from abq_core.calibration.balance import Balance, NormPair
from abq_core.mix import ModelPrecision, resolve_tables
from abq_core.models.architectures import FOLDS_ROTATIONS, Architecture, architecture_of
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.changed_blocks import with_changed_blocks
from abq_core.models.loading import LoadedModel
from abq_core.models.mapped.modules import converted_copy
from abq_core.models.shape import has_tied_tables
from abq_core.quantization.hadamard import hadamard
from abq_core.quantization.quant_linear import replace_module
from abq_core.spec import CalibrationSpec, SpecError
from kernels.formats.hadamard_block import block_of

_SEED = 0  # of the signs: all runs of a model have the same rotation


def check_rotation(spec: CalibrationSpec, family: str) -> None:
    """Refuse the switch `rotation` for a family whose norms do not commute with a rotation. Raises SpecError."""
    if spec.active_switches.rotation and family not in FOLDS_ROTATIONS:
        raise SpecError(
            f"A rotation cannot be folded into models of the family '{family}': it needs RMS norms whose output is "
            f"read by linears alone, as {', '.join(sorted(FOLDS_ROTATIONS))} have. Use --switch rotation=false."
        )


@torch.no_grad()
def starting_model(base: LoadedModel, spec: CalibrationSpec) -> tuple[LoadedModel, ModelPrecision]:
    """The full-precision model to calibrate, and its precision with the bits of its tables resolved.

    With the switch `rotation` it is `base` rotated: the same function, up to the rounding of its tables to 16 bits.
    Each block is rotated when it is used. A tied table becomes two, each with the bits of the tied one. Without the
    switch it is `base`.
    Raises SpecError, PrecisionError.
    """
    precision = resolve_tables(spec.precision, has_tied_tables(base.model))
    if not spec.active_switches.rotation:
        return base, precision
    check_rotation(spec, architecture_of(base.model).family)
    turn = _Turn.of(base.model)
    turned = with_changed_blocks(base, turn.of_block)
    turn.of_tables(turned.model)
    return turned, precision


@dataclass(frozen=True)
class Rotation:
    """An orthogonal matrix Q of k rows: random signs, then a Hadamard matrix within each block of channels, then
    `mixing` over the blocks.

    signs: (k,) of 1 and -1.  mixing: (k / block, k / block), orthogonal.
    """

    signs: Tensor
    mixing: Tensor
    block: int

    @classmethod
    def of(cls, k: int, device: torch.device) -> "Rotation":
        """The rotation of k channels."""
        block = block_of(k)
        random = torch.Generator().manual_seed(_SEED)
        signs = torch.randint(0, 2, (k,), generator=random).float() * 2 - 1
        return cls(signs.to(device), _cosines(k // block).to(device), block)

    def __call__(self, x: Tensor) -> Tensor:
        """x Q for x (..., k) float, in float32."""
        within = hadamard(x.float() * self.signs, self.block).unflatten(-1, (-1, self.block))
        return (self.mixing @ within).flatten(-2)


def _cosines(n: int) -> Tensor:
    """The orthogonal matrix (n, n) of the discrete cosine transform, float32. It exists for every n."""
    rows, columns = torch.arange(n, dtype=torch.float64).unsqueeze(1), torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(torch.pi / n * (columns + 0.5) * rows) * (2 / n) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix.float()


@dataclass(frozen=True)
class _Turn:
    """The rotations of a model: of its residual stream, and of the values of each head."""

    architecture: Architecture
    layout: HeadLayout
    residual: Rotation
    values: Rotation

    @classmethod
    def of(cls, model: PreTrainedModel) -> "_Turn":
        layout, device = HeadLayout.of(model.config), model.device
        residual, values = Rotation.of(model.config.hidden_size, device), Rotation.of(layout.head_dim, device)
        return cls(architecture_of(model), layout, residual, values)

    @torch.no_grad()
    def of_block(self, block: nn.Module) -> None:
        """Rotate a block, in place: its parameters are replaced."""
        parameters = {name: parameter.detach() for name, parameter in block.named_parameters()}
        readers = self._fold_gains(block, parameters)
        for name, weight in list(parameters.items()):
            if weight.ndim > 1 and name.removesuffix(".weight") in readers:
                parameters[name] = self.residual(weight)
            elif weight.ndim > 1:
                self._write_rotated(parameters, name.removesuffix(".weight"))
        self._rotate_values(parameters)
        for name, value in parameters.items():
            replace_module(block, name, nn.Parameter(value, requires_grad=False))

    def _fold_gains(self, block: nn.Module, parameters: dict[str, Tensor]) -> set[str]:
        """Multiply norm gains into the modules that read them, whose names are returned: then norms commute with Q."""
        pairs = [p for p in Balance(self.architecture, self.layout, block).pairs if isinstance(p, NormPair)]
        for pair in pairs:
            key = f"{pair.norm}.weight"
            gain = parameters[key] + pair.gain_offset
            parameters[key] = torch.full_like(gain, 1 - pair.gain_offset)
            for reader in pair.readers:
                parameters[f"{reader}.weight"] = parameters[f"{reader}.weight"] * gain
        return {reader for pair in pairs for reader in pair.readers}

    def _write_rotated(self, parameters: dict[str, Tensor], linear: str) -> None:
        weight, bias = parameters[f"{linear}.weight"], parameters.get(f"{linear}.bias")
        parameters[f"{linear}.weight"] = self.residual(weight.mT).mT.contiguous()
        if bias is not None:
            parameters[f"{linear}.bias"] = self.residual(bias)

    def _rotate_values(self, parameters: dict[str, Tensor]) -> None:
        assert self.architecture.value_output is not None
        rows, output = self.architecture.value_output
        index = self.layout.row_indices(rows, len(parameters[f"{rows.linear}.weight"]))
        for name in (f"{rows.linear}.weight", f"{rows.linear}.bias"):
            if name in parameters:
                by_head = parameters[name][index].unflatten(0, (self.layout.kv_heads, -1))
                rotated = self.values(by_head.movedim(1, -1)).movedim(-1, 1).flatten(0, 1)
                parameters[name] = parameters[name].index_copy(0, index.to(rotated.device), rotated)
        weight = parameters[f"{output}.weight"]
        parameters[f"{output}.weight"] = self.values(weight.unflatten(1, (self.layout.heads, -1))).flatten(1)

    def of_tables(self, model: PreTrainedModel) -> None:
        """Rotate embedding and LM head, in place: modules are replaced. A tied table becomes two."""
        norm, offset = model.base_model.norm, self.architecture.gain_offset
        embedding, head = (
            converted_copy(table, model.device)
            for table in (model.get_input_embeddings(), model.get_output_embeddings())
        )
        head.weight = _in_16_bits(self.residual(head.weight * (norm.weight + offset)))
        embedding.weight = _in_16_bits(self.residual(embedding.weight))
        norm.weight = nn.Parameter(torch.full_like(norm.weight, 1 - offset), requires_grad=False)
        model.set_input_embeddings(embedding)
        model.set_output_embeddings(head)
        model.config.tie_word_embeddings = False


def _in_16_bits(table: Tensor) -> nn.Parameter:
    """The values of a table in 16 bits, as float32: a table that is not quantized is stored in 16 bits."""
    half = table.half()
    values = half if half.isfinite().all() else table.bfloat16()
    return nn.Parameter(values.float(), requires_grad=False)
