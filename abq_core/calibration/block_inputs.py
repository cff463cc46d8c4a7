"""Inputs and outputs of a model's blocks, and the peaks of linear inputs."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.calibration.hidden_states import HiddenStates, empty_states
from abq_core.calibration.model_frame import ModelFrame
from abq_core.mix import ModelPrecision, resolve_tables
from abq_core.models.architectures import blocks_of
from abq_core.models.shape import has_tied_tables
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.tables import round_embedding


@dataclass(frozen=True)
class BlockInputs:
    """The input of a model's blocks.

    hidden: (segments, tokens, hidden) before block 0.  arguments: each block's keyword arguments for one segment (mask,
    position embeddings), which are the same for all segments of this length.
    """

    hidden: HiddenStates
    arguments: list[dict[str, Any]]


@torch.no_grad()
def capture_block_inputs(model: nn.Module, ids: Tensor) -> BlockInputs:
    """Capture the hidden states before block 0, and each block's keyword arguments.

    ids: (segments, tokens). No block runs, except the first one for a single token.
    """
    frame = ModelFrame(model)
    first, arguments = frame.enter(ids[:1])
    hidden = empty_states(len(ids), first)
    for index, segment in enumerate(ids):
        hidden[index] = frame.enter(segment.unsqueeze(0))[0][0]
    return BlockInputs(hidden, arguments)


@torch.no_grad()
def quantized_embeddings(model: nn.Module, ids: Tensor, precision: ModelPrecision) -> HiddenStates | None:
    """The hidden states before block 0 of a model with a rounded embedding, (segments, tokens, hidden).

    None if the precision leaves the embedding at 16 bits. `model` is not changed. Raises PrecisionError.
    """
    bits = resolve_tables(precision, has_tied_tables(model)).embedding_bits
    if bits is None:
        return None
    shared = [*blocks_of(model), *model.parameters(), *model.buffers()]
    rounded = copy.deepcopy(model, memo={id(part): part for part in shared})
    round_embedding(rounded, bits)
    return capture_block_inputs(rounded, ids).hidden


def block_output(result: Tensor | tuple[Any, ...]) -> Tensor:
    """The hidden states in the result of a block."""
    return result[0] if isinstance(result, tuple) else result


@contextmanager
def block_outputs(blocks: Iterable[nn.Module]) -> Iterator[list[Any]]:
    """Within the context, collect the result of each block that runs, in order.

    Gradients flow through.
    """
    outputs: list[Any] = []
    hooks = [block.register_forward_hook(lambda module, args, result: outputs.append(result)) for block in blocks]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def run_block(
    block: nn.Module, hidden: HiddenStates, arguments: dict[str, Any], out: HiddenStates | None = None
) -> HiddenStates:
    """Run (segments, tokens, hidden) through a block, segment by segment.

    out: is overwritten with the result and returned; it may be `hidden` itself. By default a new one, where `hidden`
    is.
    """
    device = next(block.parameters()).device
    outputs = empty_states(len(hidden), hidden[0]) if out is None else out
    for index, segment in enumerate(hidden):
        outputs[index] = block_output(block(segment.unsqueeze(0).to(device), **arguments))[0]
    return outputs


def to_device(arguments: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A block's keyword arguments with all tensors on `device`.

    Includes tensors in tuples (position embeddings).
    """

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return tuple(moved(part) for part in value) if isinstance(value, tuple) else value

    return {name: moved(value) for name, value in arguments.items()}


@contextmanager
def linear_inputs(block: nn.Module, take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Within the context, call `take(name, rows)` with the input of each linear that runs.

    rows: (tokens, in_features).
    """

    def listener(name: str) -> Callable[..., None]:
        def listen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            take(name, args[0].detach().flatten(0, -2))

        return listen

    hooks = [linear.register_forward_pre_hook(listener(name)) for name, linear in linears_of(block).items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def input_peaks(block: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the context, collect max|X| per input channel of each linear that runs.

    Each is (in_features,) float32.
    """
    peaks: dict[str, Tensor] = {}

    def take(name: str, rows: Tensor) -> None:
        peak = rows.abs().amax(0).float()
        peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

    with linear_inputs(block, take):
        yield peaks
