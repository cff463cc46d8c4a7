"""Sensitivity of each linear: KL to full precision when only this linear is quantized."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abq_core.calibration.block_inputs import block_outputs
from abq_core.calibration.losses import kl_divergence
from abq_core.evaluation.perplexity import LOGITS_AT_ONCE
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision, PrecisionError
from abq_core.quantization.quant_linear import QuantLinear, linears_of, replace_module
from abq_core.quantization.quantizers import fake_quant_weight
from abq_core.quantization.weight_grid import linear_bytes


@dataclass(frozen=True)
class Sensitivity:
    """One linear at one precision.

    kl: mean KL(full || model with only this linear quantized) over tokens, in nats.  rows, columns: of its weight.
    """

    block: int
    name: str
    precision: Precision
    kl: float
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        """Number of weights of the linear."""
        return self.rows * self.columns

    @property
    def stored_bytes(self) -> int:
        """Bit planes, scales and zero points at this precision."""
        return linear_bytes(self.rows, self.columns, self.precision)


@torch.no_grad()
def sensitivities(
    base: LoadedModel,
    candidates: Sequence[Precision],
    ids: Tensor,
    on_step: Callable[[int, int], None] | None = None,
    unscored: int = 0,
) -> list[Sensitivity]:
    """Measure every linear of `base` at each candidate, one linear at a time.

    ids: (segments, tokens) int64.  unscored: predictions at the start of each segment that do not count, as in
    `TextRecord.unscored`.

    Weights are rounded to nearest and the linear's input is fake-quantized; KV bits are ignored. Blocks before that of
    the linear are not run again. `on_step(done, total)` is called after each measurement and may raise to stop. `base`
    is not changed. Raises PrecisionError if there is no candidate, or one occurs twice.
    """
    if not candidates or len(set(candidates)) != len(candidates):
        shown = ", ".join(map(str, candidates)) or "none"
        raise PrecisionError(f"The candidates are {shown}: give at least one precision, each once.")
    model = _with_own_modules(base)
    batches = ids.split(max(1, LOGITS_AT_ONCE // (ids.shape[1] * base.vocabulary)))
    linears = [linears_of(block) for block in blocks_of(model.model)]
    total, done = len(batches) * len(candidates) * sum(map(len, linears)), 0
    sums: dict[tuple[int, str, Precision], float] = {}
    for batch in batches:
        for key, kl in _batch(_with_own_modules(model), candidates, batch, unscored):
            sums[key] = sums.get(key, 0.0) + kl * len(batch)
            done += 1
            if on_step is not None:
                on_step(done, total)
    return [
        Sensitivity(block, name, precision, kl / len(ids), *linears[block][name].weight.shape)
        for (block, name, precision), kl in sums.items()
    ]


def _batch(
    model: LoadedModel, candidates: Sequence[Precision], ids: Tensor, unscored: int
) -> Iterator[tuple[tuple[int, str, Precision], float]]:
    """Yield the mean KL of each linear at each candidate on some segments.

    Overwrites the blocks' forward methods.
    """
    blocks = blocks_of(model.model)
    with block_outputs(blocks) as outputs:
        full = _log_probabilities(model, ids, unscored)
    for index, block in enumerate(blocks):
        for name, linear in linears_of(block).items():
            for precision in candidates:
                replace_module(block, name, _quantized(linear, precision))
                quantized = _log_probabilities(model, ids, unscored)
                yield (index, name, precision), kl_divergence(full, quantized).mean().item()
            replace_module(block, name, linear)
        block.forward = _returning(outputs[index])  # later linears get the full-precision output of earlier blocks


def _with_own_modules(base: LoadedModel) -> LoadedModel:
    """A copy of the modules that shares their tensors. Changes do not affect other threads."""
    shared = {id(t): t for t in (*base.model.parameters(), *base.model.buffers())}
    return LoadedModel(base.ref, copy.deepcopy(base.model, memo=shared), base.tokenizer, base.precision)


def _returning(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: output


def _log_probabilities(model: LoadedModel, ids: Tensor, unscored: int) -> Tensor:
    """Log-probabilities of each next token, (segments, tokens - 1 - unscored, vocabulary)."""
    return torch.log_softmax(model.logits(model.hidden(ids)[:, unscored:-1]), dim=-1)


def _quantized(linear: nn.Linear, precision: Precision) -> QuantLinear:
    """The linear rounded to nearest, with a fake-quantized input."""
    quantized = QuantLinear.wrap(linear, precision.act_bits)
    if precision.quantizes_weights:
        weight = fake_quant_weight(linear.weight.float(), precision).to(linear.weight.dtype)
        quantized.weight = nn.Parameter(weight, requires_grad=False)
    return quantized
