"""Inputs and outputs of a model's blocks, and the peaks of linear inputs."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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

    hidden: Tensor
    arguments: list[dict[str, Any]]


@torch.no_grad()
def capture_block_inputs(model: nn.Module, ids: Tensor) -> BlockInputs:
    """Capture the hidden states before block 0, and each block's keyword arguments.

    ids: (segments, tokens). Only the first segment runs through the whole model.
    The arguments have no cache: with a captured one, a second call would attend to the keys of the first.
    """
    blocks = blocks_of(model)
    arguments: list[dict[str, Any]] = [{} for _ in blocks]
    first: list[Tensor] = []

    def listener(index: int) -> Callable[..., None]:
        def listen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            arguments[index] = given | {"use_cache": False, "past_key_values": None}
            if index == 0:
                first.append(args[0] if args else kwargs["hidden_states"])
                if len(first) > 1:  # arguments of later blocks were captured with the first segment
                    raise _Captured

        return listen

    hooks = [b.register_forward_pre_hook(listener(i), with_kwargs=True) for i, b in enumerate(blocks)]
    try:
        for segment in ids.to(next(model.parameters()).device):
            try:
                model(segment.unsqueeze(0), use_cache=False)
            except _Captured:
                pass
    finally:
        for hook in hooks:
            hook.remove()
    return BlockInputs(torch.cat(first), arguments)


@torch.no_grad()
def quantized_embeddings(model: nn.Module, ids: Tensor, precision: ModelPrecision) -> Tensor | None:
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


class _Captured(Exception):
    """Ends the model's forward once the block input is known."""


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
def run_block(block: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Run (segments, tokens, hidden) through a block, segment by segment.

    The result is on the device of `hidden`.
    """
    device = next(block.parameters()).device
    outputs = torch.empty_like(hidden)
    for output, segment in zip(outputs, hidden, strict=True):
        output.copy_(block_output(block(segment.unsqueeze(0).to(device), **arguments))[0])
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
