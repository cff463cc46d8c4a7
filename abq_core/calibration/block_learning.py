"""The optimization of one block: targets, loss terms and optimizer steps.

Distribution Correction in arXiv 2408.08554.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from abq_core.calibration.block_inputs import block_output
from abq_core.calibration.block_quantizer import BlockQuantizer
from abq_core.calibration.hidden_states import HiddenStates
from abq_core.calibration.losses import akl_loss, dlc_loss, head_mean
from abq_core.events import EpochDone, OnEvent, StepDone
from abq_core.models.attention.function import attention_maps, attention_modules, set_kv_bits
from abq_core.models.autocast import bfloat16_products
from abq_core.models.changed_blocks import copy_with_own_modules
from abq_core.quantization.quant_linear import wrap_linears
from abq_core.spec import CalibrationSpec, Switches


class CalibrationError(RuntimeError):
    """The optimization diverged."""


@dataclass(frozen=True)
class Targets:
    """Inputs and target outputs of a block, each (segments, tokens, hidden), on any device or in a file.

    full_input, quantized_input: the block's input in the full-precision and in the quantized model.  full: the output
    d_fp.  full_on_quantized: d_fp*, the full-precision block's output on the quantized input. Attention maps are
    recomputed rather than stored: a single map of 2,048 tokens is as large as the segment's hidden states.
    """

    full_input: HiddenStates
    quantized_input: HiddenStates
    full: HiddenStates
    full_on_quantized: HiddenStates


def wrapped_copy(block: nn.Module, kv_bits: int | None, quantizer: BlockQuantizer) -> nn.Module:
    """A copy of `block` that quantizes activations, K and V.

    It shares the parameters of `block`.
    Weights are passed per call, from `quantizer.quantized_parameters()`.
    """
    working = copy_with_own_modules(block)
    act_bits = {name: precision.act_bits for name, precision in quantizer.precisions.items()}
    wrap_linears(working, act_bits, quantizer.hadamards)
    set_kv_bits(working, kv_bits)
    return working


def learn_block(
    block: nn.Module,
    index: int,
    quantizer: BlockQuantizer,
    targets: Targets,
    arguments: dict[str, Any],
    spec: CalibrationSpec,
    on_event: OnEvent,
) -> None:
    """Optimize the learned values of one block, in place.

    Raises CalibrationError if a loss is not finite.
    """
    groups = quantizer.parameter_groups()
    if not groups or spec.active_epochs == 0:
        return
    working = wrapped_copy(block, spec.precision.kv_bits, quantizer)
    larger = math.sqrt(spec.batch)  # the rates are those of one segment; Adam's scale with the root of the batch
    optimizer = torch.optim.AdamW([group | {"lr": larger * group["lr"]} for group in groups], weight_decay=0.0)
    order = torch.Generator().manual_seed(spec.seed * 1009 + index)
    count = len(targets.full)
    steps = block_steps(spec, count)
    schedule = decay(optimizer, steps) if spec.active_switches.rounding else None
    step = 0
    for epoch in range(spec.active_epochs):
        sums: dict[str, float] = {}
        batches = torch.randperm(count, generator=order).split(spec.batch)
        for batch in batches:
            quantizer.begin_step(step)
            terms = _loss_terms(block, working, quantizer, targets, arguments, batch, spec.active_switches)
            total = torch.stack(list(terms.values())).sum()
            take_step(optimizer, total, f"block {index}", f"epoch {epoch + 1}")
            quantizer.after_step()
            if schedule is not None:
                schedule.step()
            add_losses(sums, {**terms, "total": total})
            step += 1
            on_event(StepDone(index, step, steps))
        on_event(EpochDone(index, epoch + 1, {name: value / len(batches) for name, value in sums.items()}))


def block_steps(spec: CalibrationSpec, segments: int) -> int:
    """Number of optimizer steps of a block; 0 if nothing is learned."""
    return spec.active_epochs * -(-segments // spec.batch) if spec.active_epochs else 0


def decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rates that decrease linearly to zero.

    Rounding offsets then settle on one side of a rounding boundary.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, where: str, when: str) -> None:
    """Do one optimizer step, then free the gradients.

    The gradients of the offsets are as large as all weights.
    where, when: for the message, such as "block 3" and "epoch 2". Raises CalibrationError if the loss is not finite.
    """
    if not torch.isfinite(loss):
        raise CalibrationError(
            f"The loss of {where} is {loss.item()} in {when}. Use more bits, another method, or switch compensation "
            "off."
        )
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def add_losses(sums: dict[str, float], terms: Mapping[str, Tensor]) -> None:
    """Add the terms of one step to their sums."""
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + value.item()


def _loss_terms(
    block: nn.Module,
    working: nn.Module,
    quantizer: BlockQuantizer,
    targets: Targets,
    arguments: dict[str, Any],
    batch: Tensor,
    switches: Switches,
) -> dict[str, Tensor]:
    """The terms of the objective that are switched on, on a batch: the indices of its segments."""

    def of_batch(stored: HiddenStates) -> Tensor:
        return torch.stack([stored[segment] for segment in batch.tolist()]).to(device_of(block))

    parameters = quantizer.quantized_parameters()
    with bfloat16_products(device_of(block)), attention_maps(working, switches.akl) as maps:
        result = functional_call(working, parameters, (of_batch(targets.quantized_input),), arguments)
    output = block_output(result).float()
    full, full_on_quantized = of_batch(targets.full), of_batch(targets.full_on_quantized)
    terms = {}
    if switches.dlc:
        terms["dlc"] = dlc_loss(output, full, full_on_quantized)
    if switches.akl:
        full_maps = _maps_only(block, of_batch(targets.full_input), arguments)
        terms["akl"] = akl_loss(_comparable(maps, switches), _comparable(full_maps, switches))
    if switches.mse != "none":
        terms["mse"] = nn.functional.mse_loss(output, full)
        if switches.mse == "both":
            terms["mse"] = terms["mse"] + nn.functional.mse_loss(output, full_on_quantized)
    return terms


@torch.no_grad()
def _maps_only(block: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> list[Tensor]:
    """The attention maps of a block.

    Its forward is stopped after the attention, before most of the work.
    """

    def stop(*_: Any) -> None:
        raise _Attended

    hooks = [module.register_forward_hook(stop) for module in attention_modules(block)]
    try:
        with bfloat16_products(hidden.device), attention_maps(block) as maps, contextlib.suppress(_Attended):
            block(hidden, **arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


class _Attended(Exception):
    """Ends a block's forward once its attention is known."""


def _comparable(maps: list[Tensor], switches: Switches) -> Tensor:
    joined = (maps[0] if len(maps) == 1 else torch.cat(maps)).float()
    return joined if switches.akl_per_head else head_mean(joined)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters."""
    return next(module.parameters()).device
