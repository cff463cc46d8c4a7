"""Block-wise calibration (Distribution Correction in arXiv 2408.08554): walk the blocks, learn, round, store, go on.

Block i sees as its input the quantized model's activations up to i. Nothing here knows jobs or files: progress leaves
through `on_event`, results through a CheckpointStore.
"""

import copy
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.block_inputs import capture_block_inputs, input_peaks, run_block, to_device
from abq_core.calibration.block_learning import CalibrationError, Targets, learn_block
from abq_core.calibration.block_quantizer import BlockQuantizer
from abq_core.calibration.end_to_end import end_to_end_segments, end_to_end_steps, learn_together
from abq_core.calibration.losses import mean_cosine
from abq_core.calibration.quantized_block import quantized_block
from abq_core.events import BlockDone, Message, OnEvent, Started, TextChosen, ignore
from abq_core.mix import block_precisions
from abq_core.models.architectures import architecture_of, blocks_of
from abq_core.models.head_layout import HeadLayout
from abq_core.models.loading import LoadedModel
from abq_core.quantization.quant_linear import linears_of
from abq_core.spec import CalibrationSpec
from abq_core.text.segments import recorded_segments

__all__ = ["CalibrationError", "calibrate", "is_end_block"]


def calibrate(base: LoadedModel, spec: CalibrationSpec, store: CheckpointStore, on_event: OnEvent = ignore) -> None:
    """Calibrate every block of `base` as `spec` says; blocks that `store` has already are adopted, not redone.

    The same spec gives the same tensors, bit for bit on one machine, however often it was stopped and resumed.
    Raises CalibrationError where a loss is no longer finite; whatever `on_event` raises passes through.
    """
    architecture = architecture_of(base.model)
    if not architecture.has_pairs:
        on_event(
            Message(f"The family '{architecture.family}' has no balance pairs in the table: balancing is left out.")
        )
    ids, text = recorded_segments(spec.data, base.tokenizer, spec.segments, spec.seq_len, spec.seed, "calibration")
    on_event(TextChosen(text))
    more = end_to_end_segments(base, spec, on_event) if spec.learns_end_to_end else None
    blocks = len(blocks_of(base.model))
    on_event(Started(blocks, spec.active_epochs * len(ids), 0 if more is None else end_to_end_steps(more)))
    if more is not None and base.model.device != _device(spec):  # all blocks learn there together
        base = replace(base, model=copy.deepcopy(base.model).to(_device(spec)))
    walk = _Walk(base, spec, store, on_event)
    if more is None or all(store.load(index) is not None for index in range(blocks)):
        walk.run(ids)
        return
    quantizers = walk.run(ids, drafts=True)
    started = time.perf_counter()
    learn_together(base, quantizers, more, spec, on_event)
    walk.finish(ids, quantizers, time.perf_counter() - started)


class _Walk:
    """One pass through the blocks: what full precision and what the quantized model gives to each of them.

    The hidden states stay where the model is; a block is copied to the spec's device while it is worked on.
    """

    def __init__(self, base: LoadedModel, spec: CalibrationSpec, store: CheckpointStore, on_event: OnEvent) -> None:
        self._base, self._spec, self._store, self._on_event = base, spec, store, on_event
        self._blocks = blocks_of(base.model)
        self._device = _device(spec)

    def run(self, ids: Tensor, drafts: bool = False) -> list[BlockQuantizer]:
        """Make, store and announce every block that is not in the store.

        drafts: store what each block learned instead of integers, and return it, to go on learning.
        """
        quantizers = []
        full, arguments = self._entering(ids)
        quantized = full
        for index in range(len(self._blocks)):
            started = time.perf_counter()
            full, quantized, quantizer, adopted = self._pass_block(index, full, quantized, arguments[index], drafts)
            if quantizer is not None:
                quantizers.append(quantizer)
            self._done(index, time.perf_counter() - started, adopted, quantized, full)
        return quantizers

    def _pass_block(
        self, index: int, full: Tensor, quantized: Tensor, arguments: dict[str, Any], drafts: bool
    ) -> tuple[Tensor, Tensor, BlockQuantizer | None, bool]:
        """One block of `run`: what leaves it in full precision and quantized, its draft, whether it was stored.

        A function of its own, so that nothing else of a block stays on the device when the next one comes.
        """
        block, arguments = self._placed(index, arguments)
        stored = self._store.load_draft(index) if drafts else self._store.load(index)
        with input_peaks(block) as peaks:
            next_full = run_block(block, full, arguments)
        quantizer = None
        if stored is not None and not drafts:
            artifact = BlockArtifact.from_tensors(stored)
        else:
            quantizer = self._quantizer(index, block, peaks)
            if stored is None:
                self._learn(index, block, quantizer, full, quantized, next_full, arguments)
            else:
                quantizer.load_state(stored)
            artifact = quantizer.artifact()
            if not drafts:
                self._store.save(index, self._tensors(index, artifact))
            elif stored is None:
                self._store.save_draft(index, quantizer.state())
        next_quantized = run_block(self._rounded(index, block, artifact), quantized, arguments)
        return next_full, next_quantized, quantizer if drafts else None, stored is not None

    def _entering(self, ids: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """What enters the first block, and the arguments of each."""
        inputs = capture_block_inputs(self._base.model, ids)
        return inputs.hidden, inputs.arguments

    def finish(self, ids: Tensor, quantizers: list[BlockQuantizer], seconds: float) -> None:
        """Store and announce the blocks after they learned together for so many seconds."""
        full, arguments = self._entering(ids)
        quantized = full
        for index, quantizer in enumerate(quantizers):
            block, placed = self._placed(index, arguments[index])
            artifact = quantizer.artifact()
            self._store.save(index, self._tensors(index, artifact))
            full = run_block(block, full, placed)
            quantized = run_block(self._rounded(index, block, artifact), quantized, placed)
            self._done(index, seconds / len(quantizers), False, quantized, full)

    def _learn(
        self,
        index: int,
        block: nn.Module,
        quantizer: BlockQuantizer,
        full: Tensor,
        quantized: Tensor,
        next_full: Tensor,
        arguments: dict[str, Any],
    ) -> None:
        on_quantized = next_full
        if quantized is not full and self._spec.active_epochs > 0:  # without learning nobody looks at it
            on_quantized = run_block(block, quantized, arguments)
        targets = Targets(full, quantized, next_full, on_quantized)
        learn_block(block, index, quantizer, targets, arguments, self._spec, self._on_event)

    def _quantizer(self, index: int, block: nn.Module, peaks: dict[str, Tensor]) -> BlockQuantizer:
        switches = self._spec.active_switches
        return BlockQuantizer(
            block,
            architecture_of(self._base.model),
            HeadLayout.of(self._base.model.config),
            block_precisions(self._spec.precision, index, linears_of(block)),
            switches,
            compensate=switches.compensation and is_end_block(index, len(self._blocks)),
            input_peaks=peaks,
        )

    def _placed(self, index: int, arguments: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
        """A block and its arguments on the device of the spec; the model's own block where it is there already."""
        block = self._blocks[index]
        if next(block.parameters()).device == self._device:
            return block, arguments
        return copy.deepcopy(block).to(self._device), to_device(arguments, self._device)

    def _rounded(self, index: int, block: nn.Module, artifact: BlockArtifact) -> nn.Module:
        return quantized_block(block, artifact, self._spec.precision, index, "simulated")

    def _tensors(self, index: int, artifact: BlockArtifact) -> dict[str, Tensor]:
        return artifact.to_tensors(block_precisions(self._spec.precision, index, artifact.weights))

    def _done(self, index: int, seconds: float, adopted: bool, quantized: Tensor, full: Tensor) -> None:
        self._on_event(BlockDone(index, seconds, adopted, _distances(quantized, full)))


def _device(spec: CalibrationSpec) -> torch.device:
    """Where blocks are worked on, as tensors say it: cuda:0 where the spec says cuda."""
    return torch.empty(0, device=spec.device).device


def is_end_block(index: int, blocks: int) -> bool:
    """The first three and the last four blocks, as in the authors' code, get a compensation."""
    return index <= 2 or index >= blocks - 4


@torch.no_grad()
def _distances(quantized: Tensor, full: Tensor) -> dict[str, float]:
    """How far a block's output is from full precision."""
    pairs = list(zip(quantized, full, strict=True))  # one by one: differences of all would be as large as both
    cosine = sum(mean_cosine(a, b).item() for a, b in pairs) / len(pairs)
    return {"cosine": cosine, "mse": sum(torch.mean((a - b) ** 2).item() for a, b in pairs) / len(pairs)}
