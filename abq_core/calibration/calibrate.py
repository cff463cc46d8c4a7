"""Block-wise calibration: learn, round and store one block after another.

Distribution Correction in arXiv 2408.08554.

The input of a block is the output of the quantized blocks before it. The module does not depend on jobs or
files: it reports progress to `on_event` and stores results in a CheckpointStore.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.block_inputs import (
    capture_block_inputs,
    input_peaks,
    quantized_embeddings,
    run_block,
    to_device,
)
from abq_core.calibration.block_learning import CalibrationError, Targets, block_steps, learn_block
from abq_core.calibration.block_quantizer import BlockQuantizer
from abq_core.calibration.calibration_text import CalibrationText, read_text
from abq_core.calibration.end_to_end import end_to_end_steps, learn_together
from abq_core.calibration.hidden_states import HiddenStates
from abq_core.calibration.losses import mean_cosine
from abq_core.calibration.quantized_block import quantized_block
from abq_core.calibration.rotation import starting_model
from abq_core.events import BlockDone, Message, OnEvent, Started, ignore
from abq_core.mix import block_precisions
from abq_core.models.architectures import architecture_of, blocks_of
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.loading import LoadedModel
from abq_core.quantization.quant_linear import linears_of
from abq_core.spec import CalibrationSpec

__all__ = ["CalibrationError", "calibrate", "is_end_block"]


def calibrate(
    base: LoadedModel,
    spec: CalibrationSpec,
    store: CheckpointStore,
    on_event: OnEvent = ignore,
    text: CalibrationText | None = None,
) -> None:
    """Calibrate every block of `base` as `spec` specifies; skip blocks that `store` has.

    Blocks depend on the bits of the embedding, which changes their inputs, and not on those of the LM head.

    text: from `read_text(base, spec)`; read here if None. The same spec gives the same tensors, bit for bit on one
    machine, even if it was stopped and resumed. Raises CalibrationError if a loss is not finite, SpecError or
    PrecisionError for a spec that does not fit the model, DataError for a text that cannot be read; exceptions of
    `on_event` propagate.
    """
    text = text or read_text(base, spec, on_event)
    if text.end_to_end is not None and base.model.device != _device(spec):  # all blocks learn together on that device
        base = replace(base, model=copy.deepcopy(base.model).to(_device(spec)))
    base, precision = starting_model(base, spec)
    spec = replace(spec, precision=precision)
    architecture = architecture_of(base.model)
    if not architecture.has_pairs:
        on_event(Message(f"The family '{architecture.family}' has no known balance pairs: balancing is skipped."))
    blocks = len(blocks_of(base.model))
    pass_steps = 0 if text.end_to_end is None else end_to_end_steps(text.end_to_end)
    on_event(Started(blocks, block_steps(spec, len(text.blocks)), pass_steps))
    if text.end_to_end is None:
        _Walk(base, spec, store, on_event).finish_blocks(text.blocks)
        return
    walk = _Walk(base, spec, store, on_event)
    if all(store.has(index) for index in range(blocks)) and walk.adopt_blocks(text.blocks):
        return
    quantizers = walk.draft_blocks(text.blocks)
    started = time.perf_counter()
    learn_together(base, quantizers, text.end_to_end, spec, on_event)
    walk.store_blocks(text.blocks, quantizers, time.perf_counter() - started)


@dataclass(frozen=True)
class _Streams:
    """Hidden states at the input of a block, (segments, tokens, hidden).

    Both are on the device of the model, or in a file. They are one object until a block was quantized.
    """

    full: HiddenStates
    quantized: HiddenStates


class _Passed(NamedTuple):
    """Outcome of one block.

    streams: at its output.  sha256: of what was stored now, None if it was stored before.
    """

    streams: _Streams
    sha256: str | None


_Work = Callable[[int, nn.Module, _Streams, dict[str, Any]], _Passed]  # on a block by index, with its arguments


class _Walk:
    """One walk over the blocks with full-precision and quantized hidden states side by side.

    The hidden states stay on the model's device; a block is in float32 on the spec's device while it is worked on. A
    block's outputs overwrite its inputs as soon as these are not needed.
    """

    def __init__(self, base: LoadedModel, spec: CalibrationSpec, store: CheckpointStore, on_event: OnEvent) -> None:
        self._base, self._spec, self._store, self._on_event = base, spec, store, on_event
        self._blocks = blocks_of(base.model)
        self._device = _device(spec)

    def finish_blocks(self, ids: Tensor) -> None:
        """Learn, round and store every block that is not in the store."""

        def finish(index: int, block: nn.Module, streams: _Streams, arguments: dict[str, Any]) -> _Passed:
            stored, sha256 = self._store.load(index), None
            with input_peaks(block) as peaks:
                full = self._run_full(block, streams, arguments, learns=stored is None)
            if stored is None:
                quantizer = self._quantizer(index, block, peaks)
                self._learn(index, block, quantizer, streams, full, arguments)
                artifact = quantizer.artifact()
                sha256 = self._store.save(index, self._tensors(index, artifact))
            else:
                artifact = BlockArtifact.from_tensors(stored)
            return _Passed(_Streams(full, self._run(index, block, artifact, streams, arguments)), sha256)

        self._pass_through(ids, finish)

    def draft_blocks(self, ids: Tensor) -> list[BlockQuantizer]:
        """Learn every block whose draft is not in the store. Returns all learned values."""
        quantizers: list[BlockQuantizer] = []

        def draft(index: int, block: nn.Module, streams: _Streams, arguments: dict[str, Any]) -> _Passed:
            stored, sha256 = self._store.load_draft(index), None
            with input_peaks(block) as peaks:
                full = self._run_full(block, streams, arguments, learns=stored is None)
            quantizer = self._quantizer(index, block, peaks)
            if stored is None:
                self._learn(index, block, quantizer, streams, full, arguments)
                quantizer.shrink_offsets()
                sha256 = self._store.save_draft(index, quantizer.state())
            else:
                quantizer.load_state(stored)
                quantizer.shrink_offsets()
            quantizers.append(quantizer)
            artifact = quantizer.artifact()
            quantizer.release()
            return _Passed(_Streams(full, self._run(index, block, artifact, streams, arguments)), sha256)

        self._pass_through(ids, draft)
        return quantizers

    def store_blocks(self, ids: Tensor, quantizers: list[BlockQuantizer], seconds: float) -> None:
        """Round and store the blocks after they learned together for `seconds`.

        Nothing is stored before all are rounded: a block that is stored has no draft any more, and to resume without
        a draft means to learn the block and the pass once more.
        """
        rounded: list[dict[str, Tensor]] = []

        def round_block(index: int, block: nn.Module, streams: _Streams, arguments: dict[str, Any]) -> _Passed:
            quantizers[index].hold(block)
            artifact = quantizers[index].artifact()
            quantizers[index].release()
            quantizers[index].offsets.clear()  # the rounded weights are smaller
            rounded.append(self._tensors(index, artifact))
            full = self._run_full(block, streams, arguments, learns=False)
            return _Passed(_Streams(full, self._run(index, block, artifact, streams, arguments)), None)

        done = list(self._passed(ids, round_block))
        for event, tensors in zip(done, rounded, strict=True):
            sha256 = self._store.save(event.block, tensors)
            self._on_event(replace(event, seconds=seconds / len(done), sha256=sha256))

    def adopt_blocks(self, ids: Tensor) -> bool:
        """Announce the blocks of a store that has them all.

        Returns False at the first that cannot be read.
        """

        def adopt(index: int, block: nn.Module, streams: _Streams, arguments: dict[str, Any]) -> _Passed:
            stored = self._store.load(index)
            if stored is None:
                raise _UnreadableBlockError
            artifact = BlockArtifact.from_tensors(stored)
            full = self._run_full(block, streams, arguments, learns=False)
            return _Passed(_Streams(full, self._run(index, block, artifact, streams, arguments)), None)

        try:
            self._pass_through(ids, adopt)
        except _UnreadableBlockError:
            return False
        return True

    def _pass_through(self, ids: Tensor, work: _Work) -> None:
        """Do `work` on one block after another, and announce each."""
        for event in self._passed(ids, work):
            self._on_event(event)

    def _passed(self, ids: Tensor, work: _Work) -> Iterator[BlockDone]:
        """Do `work` on one block after another; yields what is to be announced of each."""
        streams, block_arguments = self._entering(ids)
        for index, arguments in enumerate(block_arguments):
            started = time.perf_counter()
            streams, sha256 = self._on_device(work, index, streams, arguments)
            elapsed = time.perf_counter() - started
            yield BlockDone(index, elapsed, sha256, _distances(streams.quantized, streams.full))

    def _learn(
        self,
        index: int,
        block: nn.Module,
        quantizer: BlockQuantizer,
        streams: _Streams,
        full_output: HiddenStates,
        arguments: dict[str, Any],
    ) -> None:
        full_on_quantized = full_output
        if streams.quantized is not streams.full and self._spec.active_epochs > 0:  # unused without learning
            full_on_quantized = run_block(block, streams.quantized, arguments)
        targets = Targets(streams.full, streams.quantized, full_output, full_on_quantized)
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

    def _entering(self, ids: Tensor) -> tuple[_Streams, list[dict[str, Any]]]:
        """The streams at the input of the first block, and the arguments of each block."""
        inputs = capture_block_inputs(self._base.model, ids)
        quantized = quantized_embeddings(self._base.model, ids, self._spec.precision)
        return _Streams(inputs.hidden, inputs.hidden if quantized is None else quantized), inputs.arguments

    def _on_device(self, work: _Work, index: int, streams: _Streams, arguments: dict[str, Any]) -> _Passed:
        """Do `work` on a block in float32 on the spec's device.

        This is a separate function so that a copy of the block is freed before the next block is copied.
        """
        with self._base.block(index, self._device) as block:
            return work(index, block, streams, to_device(arguments, self._device))

    def _run_full(
        self, block: nn.Module, streams: _Streams, arguments: dict[str, Any], *, learns: bool
    ) -> HiddenStates:
        """The output of the full-precision block. Overwrites its input, unless the block learns from it."""
        shared = streams.full is streams.quantized
        keeps_input = shared or (learns and self._spec.active_epochs > 0)
        return run_block(block, streams.full, arguments, out=None if keeps_input else streams.full)

    def _run(
        self, index: int, block: nn.Module, artifact: BlockArtifact, streams: _Streams, arguments: dict[str, Any]
    ) -> HiddenStates:
        """The output of the quantized block on the quantized stream, which it overwrites."""
        quantized = quantized_block(block, artifact, self._spec.precision, index, "simulated")
        return run_block(quantized, streams.quantized, arguments, out=streams.quantized)

    def _tensors(self, index: int, artifact: BlockArtifact) -> dict[str, Tensor]:
        return artifact.to_tensors(block_precisions(self._spec.precision, index, artifact.weights))


class _UnreadableBlockError(Exception):
    """A stored block cannot be read.

    Its file was damaged, or was written without being recorded.
    """


def _device(spec: CalibrationSpec) -> torch.device:
    """The device where blocks are worked on, with its index: cuda:0 if the spec says cuda."""
    return torch.empty(0, device=spec.device).device


def is_end_block(index: int, blocks: int) -> bool:
    """True for the first three and the last four blocks, which get a compensation.

    The authors' code does the same.
    """
    return index <= 2 or index >= blocks - 4


@torch.no_grad()
def _distances(quantized: HiddenStates, full: HiddenStates) -> dict[str, float]:
    """Mean cosine and mean squared error between a block's output and full precision.

    Computed segment by segment: the difference of all at once would be as large as both tensors.
    """
    cosine = mse = 0.0
    for a, b in zip(quantized, full, strict=True):
        cosine += mean_cosine(a, b).item()
        mse += torch.mean((a - b) ** 2).item()
    return {"cosine": cosine / len(full), "mse": mse / len(full)}
