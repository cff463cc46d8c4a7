"""The end-to-end pass: all blocks learn together to match the full-precision logits.

It goes beyond the paper, in which each block learns alone. Memory: the model in its stored dtype, one float16 offset
per weight, and the float32 weights, gradients and activations of one block at a time.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from abq_core.calibration.block_inputs import block_output, block_outputs
from abq_core.calibration.block_learning import add_losses, decay, take_step, wrapped_copy
from abq_core.calibration.block_quantizer import ROUNDING_RATE, BlockQuantizer
from abq_core.calibration.losses import log_cosine, token_kl
from abq_core.calibration.sign_descent import SignDescent
from abq_core.events import EpochDone, OnEvent, StepDone
from abq_core.mix import resolve_tables
from abq_core.models.architectures import blocks_of
from abq_core.models.autocast import bfloat16_products
from abq_core.models.changed_blocks import sharing_copy
from abq_core.models.loading import LoadedModel
from abq_core.models.shape import has_tied_tables
from abq_core.quantization.tables import round_embedding
from abq_core.spec import CalibrationSpec

STEP_TOKENS = 1024  # per optimizer step, or one segment if that is longer
# Relative to the block-wise rates. Grids move slowly, since all codes of a row move with them.
_RATES = {"balance": 0.04, "clipping": 0.04, "act_clipping": 0.04, "rounding": 0.5}
_LARGEST_OFFSET = 1.0  # in steps of the grid: a weight may move past its neighbouring level
_BLOCKS_WEIGHT = 3.0  # of the blocks' log cosines; at W2A8, 1 and 10 lead to a larger KL on held-out text
_REPORTS = 10  # mean losses that are announced during the pass


def end_to_end_steps(ids: Tensor) -> int:
    """Number of optimizer steps of the pass over these segments."""
    return -(-len(ids) // segments_per_step(ids.shape[1]))


def learn_together(
    base: LoadedModel,
    quantizers: Sequence[BlockQuantizer],
    ids: Tensor,
    spec: CalibrationSpec,
    on_event: OnEvent,
) -> None:
    """Optimize the learned values of all blocks together, in place, in one pass over ids.

    ids: (segments, tokens) int64.  quantizers: with `shrink_offsets` done.

    Minimizes KL(full || quantized) of the next-token distributions, in nats per token; with the switch `block_targets`
    also the log cosine between every block's output and that of full precision. Rounding offsets are learned by sign
    descent and stored in float16, all other values by AdamW. Does nothing if no block has learned values. Raises
    CalibrationError.
    """
    if not any(quantizer.parameter_groups() for quantizer in quantizers):
        return  # such as learned activation clipping with activations that are not quantized
    steps = end_to_end_steps(ids)
    descent = _Descent(quantizers, steps)
    student = _student(base, spec, quantizers, descent.signs)
    models = (base.model, student) if spec.active_switches.block_targets else ()
    teachers, learners = [blocks_of(model) for model in models] or ([], [])
    sums: dict[str, float] = {}
    reported = 0
    for step, batch in enumerate(ids.to(base.model.device).split(segments_per_step(ids.shape[1])), start=1):
        for quantizer in quantizers:
            quantizer.begin_step(step)
        with torch.no_grad(), bfloat16_products(batch.device), block_outputs(teachers) as targets:
            full = base.logits(base.hidden(batch))
        with bfloat16_products(batch.device), block_outputs(learners) as outputs:
            logits = student(input_ids=batch, use_cache=False).logits
        terms = _loss_terms(logits, full, outputs, targets)
        total = torch.stack(list(terms.values())).sum()
        descent.step(total, step)
        add_losses(sums, {**terms, "total": total})
        on_event(StepDone(len(quantizers), step, steps))
        if step * _REPORTS // steps > (step - 1) * _REPORTS // steps:
            means = {name: value / (step - reported) for name, value in sums.items()}
            on_event(EpochDone(len(quantizers), step * _REPORTS // steps, means))
            sums, reported = {}, step


class _Descent:
    """The optimizers of the pass, with rates that decrease linearly to zero."""

    def __init__(self, quantizers: Sequence[BlockQuantizer], steps: int) -> None:
        self.signs = SignDescent(_RATES["rounding"] * ROUNDING_RATE, _LARGEST_OFFSET)
        self._quantizers = quantizers
        groups = [group for quantizer in quantizers for group in quantizer.parameter_groups()]
        groups = [group | {"lr": _RATES[group["switch"]] * group["lr"]} for group in groups]
        slow = [group for group in groups if group["switch"] != "rounding"] or [{"params": []}]  # torch wants a group
        self._optimizer = torch.optim.AdamW(slow, weight_decay=0.0)
        self._schedule = decay(self._optimizer, steps)
        self._steps = steps

    def step(self, loss: Tensor, step: int) -> None:
        """Compute gradients and move all values. step: 1 to steps. Raises CalibrationError."""
        self.signs.rate = _RATES["rounding"] * ROUNDING_RATE * (1 - (step - 1) / self._steps)
        take_step(self._optimizer, loss, "the end-to-end pass", f"step {step}")
        for quantizer in self._quantizers:
            quantizer.after_step(_LARGEST_OFFSET)
        self._schedule.step()


class _LearningBlock(nn.Module):
    """A block that quantizes its weights when it runs, and once more in its backward pass.

    Between the two, neither its weights nor its activations exist. Attributes that the model reads from its blocks are
    those of the wrapped block, which has no weights itself.
    """

    def __init__(self, base: LoadedModel, index: int, quantizer: BlockQuantizer, signs: SignDescent) -> None:
        super().__init__()
        self._base, self._index, self._quantizer, self._signs = base, index, quantizer, signs
        with base.block(index) as block:
            self.block = wrapped_copy(block, base.precision.kv_bits, quantizer)
        _drop_weights(self.block)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.block, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The result of the block with quantized weights."""
        return checkpoint(self._run, args, kwargs, use_reentrant=False, preserve_rng_state=False)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._base.block(self._index) as block:
            self._quantizer.hold(block)
            parameters = self._quantizer.quantized_parameters(self._signs)
            self._quantizer.release()
        return functional_call(self.block, parameters, args, kwargs)


def _drop_weights(module: nn.Module) -> None:
    """Replace all parameters by ones without memory, in place."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(parameter.to("meta"), requires_grad=False))


def _loss_terms(learned: Tensor, full: Tensor, outputs: Sequence[Any], targets: Sequence[Any]) -> dict[str, Tensor]:
    """The terms of the loss.

    learned, full: logits (segments, tokens, vocabulary) of the quantized and the full-precision model.
    outputs, targets: results of their blocks; empty without `block_targets`.
    """
    kl = token_kl(learned, full)
    if not outputs:
        return {"kl": kl}
    pairs = zip(map(block_output, outputs), map(block_output, targets), strict=True)
    cosines = [log_cosine(output, target) for output, target in pairs]
    return {"kl": kl, "blocks": _BLOCKS_WEIGHT * torch.stack(cosines).sum()}


def _student(
    base: LoadedModel, spec: CalibrationSpec, quantizers: Sequence[BlockQuantizer], signs: SignDescent
) -> PreTrainedModel:
    """A model with blocks that learn and the rounded embedding; everything else is shared with `base`.

    Its LM head has full precision: no block depends on the head's bits.
    """
    model = sharing_copy(base)
    round_embedding(model, resolve_tables(spec.precision, has_tied_tables(base.model)).embedding_bits)
    blocks, learned = blocks_of(model), replace(base, precision=spec.precision)
    for index, quantizer in enumerate(quantizers):
        blocks[index] = _LearningBlock(learned, index, quantizer, signs)
    return model


def segments_per_step(seq_len: int) -> int:
    """Segments of `seq_len` tokens in one optimizer step."""
    return max(1, STEP_TOKENS // seq_len)
