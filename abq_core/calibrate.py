"""Block-wise calibration (Distribution Correction in arXiv 2408.08554): walk the blocks, learn, round, store, go on.

Block i sees as its input the quantized model's activations up to i. Nothing here knows jobs or files: progress leaves
through `on_event`, results through a CheckpointStore.
"""

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from abq_core.architectures import architecture_of, blocks_of
from abq_core.artifacts import BlockArtifact, CheckpointStore
from abq_core.attention import attention_maps, set_kv_bits
from abq_core.balance import HeadLayout
from abq_core.block_inputs import block_output, capture_block_inputs, input_peaks, run_block
from abq_core.block_quantizer import BlockQuantizer
from abq_core.data import segments
from abq_core.events import BlockDone, EpochDone, Message, OnEvent, Started, StepDone, ignore
from abq_core.losses import akl_loss, dlc_loss, head_mean, mean_cosine
from abq_core.models import LoadedModel
from abq_core.quant_linear import wrap_linears
from abq_core.runtime import quantized_block
from abq_core.spec import CalibrationSpec, Switches


class CalibrationError(RuntimeError):
    """The optimisation broke down."""


@dataclass(frozen=True)
class Targets:
    """What a block should give, per segment: d_fp, d_fp* (section Distribution Correction), attention maps, max|X|."""

    full: Tensor
    full_on_quantized: Tensor
    maps: list[Tensor]
    peaks: dict[str, Tensor]


def calibrate(base: LoadedModel, spec: CalibrationSpec, store: CheckpointStore, on_event: OnEvent = ignore) -> None:
    """Calibrate every block of `base` as `spec` says; blocks that `store` has already are adopted, not redone.

    The same spec gives the same tensors, bit for bit on one machine, however often it was stopped and resumed.
    Raises CalibrationError where a loss is no longer finite; whatever `on_event` raises passes through.
    """
    architecture = architecture_of(base.model)
    if not architecture.known:
        on_event(
            Message(f"The family '{architecture.family}' has no balance pairs in the table: balancing is left out.")
        )
    ids = segments(spec.data, base.tokenizer, spec.segments, spec.seq_len, spec.seed, "calibration")
    inputs = capture_block_inputs(base.model, ids)
    blocks = blocks_of(base.model)
    on_event(Started(len(blocks), spec.active_epochs * len(ids)))
    full_hidden = quantized_hidden = inputs.hidden
    for index, block in enumerate(blocks):
        started = time.perf_counter()
        arguments = inputs.arguments[index]
        tensors = store.load(index)
        adopted = tensors is not None
        next_full, maps, peaks = _run_full(block, full_hidden, arguments, spec.active_switches)
        if tensors is None:
            on_quantized = next_full
            if quantized_hidden is not full_hidden and spec.active_epochs > 0:  # without learning nobody looks at it
                on_quantized = run_block(block, quantized_hidden, arguments)
            targets = Targets(next_full, on_quantized, maps, peaks)
            tensors = _learn(base, index, targets, quantized_hidden, arguments, spec, on_event).to_tensors(
                spec.precision
            )
            store.save(index, tensors)
        quantized = quantized_block(block, BlockArtifact.from_tensors(tensors), spec.precision, "simulated")
        quantized_hidden = run_block(quantized, quantized_hidden, arguments)
        full_hidden = next_full
        on_event(BlockDone(index, time.perf_counter() - started, adopted, _distances(quantized_hidden, full_hidden)))


@torch.no_grad()
def _run_full(
    block: nn.Module, hidden: Tensor, arguments: dict[str, Any], switches: Switches
) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """The full-precision block: its outputs, the attention maps where AKL wants them, max|X| of each linear's input.

    An adopted block takes this path too: attention with and without maps differs in the last bit, and a resumed run
    must not.
    """
    outputs, maps = [], []
    with input_peaks(block) as peaks:
        for segment in hidden:
            with attention_maps(block, switches.akl) as collected:
                outputs.append(block_output(block(segment.unsqueeze(0), **arguments)))
            if switches.akl:
                maps.append(_compared(torch.cat(collected), switches))
    return torch.cat(outputs), maps, peaks


def _learn(
    base: LoadedModel,
    index: int,
    targets: Targets,
    quantized_hidden: Tensor,
    arguments: dict[str, Any],
    spec: CalibrationSpec,
    on_event: OnEvent,
) -> BlockArtifact:
    """Optimise the learned values of one block and round it."""
    switches, blocks = spec.active_switches, blocks_of(base.model)
    working = copy.deepcopy(blocks[index])
    wrap_linears(working, spec.precision.act_bits)
    set_kv_bits(working, spec.precision.kv_bits)
    quantizer = BlockQuantizer(
        blocks[index],
        architecture_of(base.model),
        HeadLayout.of(base.model.config),
        spec.precision,
        switches,
        compensate=switches.compensation and is_end_block(index, len(blocks)),
        input_peaks=targets.peaks,
    )
    groups = quantizer.parameter_groups()
    if not groups or spec.active_epochs == 0:
        return quantizer.artifact()
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    order = torch.Generator().manual_seed(spec.seed * 1009 + index)
    count = len(quantized_hidden)
    for epoch in range(spec.active_epochs):
        sums: dict[str, float] = {}
        for position, segment in enumerate(torch.randperm(count, generator=order).tolist()):
            terms = _loss_terms(working, quantizer, targets, quantized_hidden, arguments, segment, switches)
            total = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(total):
                raise CalibrationError(
                    f"The loss of block {index} is {total.item()} in epoch {epoch + 1}. Use more bits, another method, "
                    "or switch compensation off."
                )
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            for name, value in (*terms.items(), ("total", total)):
                sums[name] = sums.get(name, 0.0) + value.item()
            on_event(StepDone(index, epoch * count + position + 1, spec.active_epochs * count))
        on_event(EpochDone(index, epoch + 1, {name: value / count for name, value in sums.items()}))
    return quantizer.artifact()


def _loss_terms(
    working: nn.Module,
    quantizer: BlockQuantizer,
    targets: Targets,
    hidden: Tensor,
    arguments: dict[str, Any],
    segment: int,
    switches: Switches,
) -> dict[str, Tensor]:
    """The terms of the objective that are switched on, for one segment."""
    with attention_maps(working, switches.akl) as maps:
        result = functional_call(working, quantizer.quantized_parameters(), (hidden[segment].unsqueeze(0),), arguments)
    output = block_output(result)
    full = targets.full[segment].unsqueeze(0)
    full_on_quantized = targets.full_on_quantized[segment].unsqueeze(0)
    terms = {}
    if switches.dlc:
        terms["dlc"] = dlc_loss(output, full, full_on_quantized)
    if switches.akl:
        terms["akl"] = akl_loss(_compared(torch.cat(maps), switches), targets.maps[segment])
    if switches.mse != "none":
        terms["mse"] = nn.functional.mse_loss(output, full)
        if switches.mse == "both":
            terms["mse"] = terms["mse"] + nn.functional.mse_loss(output, full_on_quantized)
    return terms


def is_end_block(index: int, blocks: int) -> bool:
    """The first three and the last four blocks, as in the authors' code, get a compensation."""
    return index <= 2 or index >= blocks - 4


def _compared(maps: Tensor, switches: Switches) -> Tensor:
    return maps if switches.akl_per_head else head_mean(maps)


@torch.no_grad()
def _distances(quantized: Tensor, full: Tensor) -> dict[str, float]:
    """How far a block's output is from full precision."""
    error = torch.mean((quantized - full) ** 2)
    return {"cosine": mean_cosine(quantized, full).item(), "mse": error.item()}
