"""Where the time of a decode step goes: seconds and bytes read by kind of operation.

The time of a whole step is measured without instruments. Then the same tokens are decoded once more with a clock around
each operation; what the operations do not account for is Python.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.inference.cpu_decoder import ATTENTION, EMBEDDING, LINEARS, NORMS, CpuDecoder
from abq_core.inference.kv_cache import PreallocatedCache, PreallocatedLayer
from abq_core.inference.prompts import starts
from abq_core.inference.reader import Reader, most_likely
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.quantization.lm_head import PackedHead

HEAD, SAMPLING, PYTHON = "LM head", "sampling", "Python and the rest"
MODULES = "attention, norms and Python"  # of a model that runs through transformers' modules
_KINDS = (LINEARS, HEAD, ATTENTION, NORMS, EMBEDDING, SAMPLING)
_WARM_UP_TOKENS = 3


@dataclass(frozen=True)
class Part:
    """One kind of operation in a decode step. seconds: per token.  nbytes: read per token, 0 if negligible."""

    kind: str
    seconds: float
    nbytes: int = 0


@dataclass(frozen=True)
class DecodeProfile:
    """The parts of a decode step; medians over tokens.

    seconds: of a step without instruments.  positions: cached positions that attention reads, the mean over tokens.
    """

    seconds: float
    positions: int
    parts: tuple[Part, ...]


def profile_decode(
    model: LoadedModel,
    prompt: str,
    tokens: int,
    linear_bytes: int,
    on_token: Callable[[int], None] | None = None,
) -> DecodeProfile:
    """Decode `tokens` tokens greedily on the CPU, twice.

    linear_bytes: of the weights of the blocks' linears in memory.  on_token(count): called after each token of both
    times; may raise to stop.  Raises PromptError if prompt and tokens exceed the model's context, of which the warm-up
    takes _WARM_UP_TOKENS, ModelError, GenerationError.
    """
    steps = _WARM_UP_TOKENS + tokens
    ids = starts({"": model}, prompt, steps)[""].ids
    capacity = len(ids) + steps
    plain, clock = Reader(model, capacity), _Clock()
    seconds, following = list[float](), ids
    for step in range(steps):
        start = time.perf_counter()
        following = [most_likely(plain.read(following))]
        seconds.append(time.perf_counter() - start)
        _report(on_token, step)
    spent, following = list[dict[str, float]](), ids
    with _instrumented(model, clock) as instrumented:
        timed = Reader(instrumented, capacity)
        for step in range(steps):
            clock.seconds = defaultdict(float)
            following = [_timed_step(timed, model, clock, following)]
            spent.append(clock.seconds)
            _report(on_token, steps + step)
    positions = len(ids) + _WARM_UP_TOKENS + tokens // 2
    total = median(seconds[_WARM_UP_TOKENS:])
    nbytes = {LINEARS: linear_bytes, HEAD: _head_bytes(model), ATTENTION: _cache_bytes(plain.cache, positions)}
    parts = [
        Part(kind, median(one.get(kind, 0.0) for one in spent[_WARM_UP_TOKENS:]), nbytes.get(kind, 0))
        for kind in _KINDS
        if any(kind in one for one in spent)
    ]
    rest = PYTHON if isinstance(model.decoder, CpuDecoder) else MODULES
    parts.append(Part(rest, max(0.0, total - sum(part.seconds for part in parts))))
    return DecodeProfile(total, positions, tuple(parts))


class _Clock:
    """Adds up seconds by kind of operation."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def around(self, kind: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        """The operation, with its time added to `kind`."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = operation(*arguments)
            self.seconds[kind] += time.perf_counter() - start
            return result

        return timed


@torch.inference_mode()
def _timed_step(reader: Reader, model: LoadedModel, clock: _Clock, following: list[int]) -> int:
    """What `Reader.read` does, with a clock around the LM head and the choice of the token."""
    hidden = reader.hidden(following)
    logits: Tensor = clock.around(HEAD, model.logits)(hidden)
    token: int = clock.around(SAMPLING, lambda logits: most_likely(reader.checked(logits).cpu()))(logits)
    return token


@contextmanager
def _instrumented(model: LoadedModel, clock: _Clock) -> Iterator[LoadedModel]:
    """The model with clocks: around the operations of its decoder, or around the linears of its blocks."""
    if isinstance(model.decoder, CpuDecoder):
        yield replace(model, decoder=model.decoder.with_operations(clock.around))
        return
    started: dict[nn.Module, float] = {}

    def start(linear: nn.Module, *_: object) -> None:
        started[linear] = time.perf_counter()

    def stop(linear: nn.Module, *_: object) -> None:
        clock.seconds[LINEARS] += time.perf_counter() - started[linear]

    linears = [module for module in blocks_of(model.model).modules() if hasattr(module, "out_features")]
    handles = [linear.register_forward_pre_hook(start) for linear in linears]
    handles += [linear.register_forward_hook(stop) for linear in linears]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _report(on_token: Callable[[int], None] | None, step: int) -> None:
    if on_token is not None:
        on_token(step + 1)


def _head_bytes(model: LoadedModel) -> int:
    """Bytes of the LM head in memory."""
    head = model.model.get_output_embeddings()
    return int(head.packed.nbytes if isinstance(head, PackedHead) else head.weight.nbytes)


def _cache_bytes(cache: PreallocatedCache, positions: int) -> int:
    """Bytes of the keys and values that a token at this position reads."""
    total = 0
    for layer in cache.layers:
        if isinstance(layer, PreallocatedLayer):
            total += layer.nbytes * min(positions, layer.window or positions) // layer.capacity
    return total
