"""The end-to-end pass: all blocks learn together to match the full-precision logits.

It goes beyond the paper, in which each block learns alone.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from abq_core.calibration.block_inputs import block_output, block_outputs
from abq_core.calibration.block_learning import add_losses, decay, take_step, wrapped_copy
from abq_core.calibration.block_quantizer import BlockQuantizer
from abq_core.calibration.losses import log_cosine, token_kl
from abq_core.events import EpochDone, OnEvent, StepDone
from abq_core.mix import resolve_tables
from abq_core.models.architectures import blocks_of
from abq_core.models.autocast import bfloat16_products
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

    ids: (segments, tokens) int64.

    Minimizes KL(full || quantized) of the next-token distributions, in nats per token; with the switch `block_targets`
    also the log cosine between every block's output and that of full precision. Raises CalibrationError.
    """
    student, prefixes = _student(base, spec, quantizers)
    models = (base.model, student.model) if spec.active_switches.block_targets else ()
    teachers, learners = [blocks_of(model) for model in models] or ([], [])
    groups = [group for quantizer in quantizers for group in quantizer.parameter_groups()]
    groups = [group | {"lr": _RATES[group["switch"]] * group["lr"]} for group in groups]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    steps = end_to_end_steps(ids)
    schedule = decay(optimizer, steps)
    sums: dict[str, float] = {}
    reported = 0
    for step, batch in enumerate(ids.to(base.model.device).split(segments_per_step(ids.shape[1])), start=1):
        with torch.no_grad(), bfloat16_products(batch.device), block_outputs(teachers) as targets:
            full = base.logits(base.hidden(batch))
        parameters = {
            prefix + name: tensor
            for prefix, quantizer in zip(prefixes, quantizers, strict=True)
            for name, tensor in quantizer.quantized_parameters().items()
        }
        with bfloat16_products(batch.device), block_outputs(learners) as outputs:
            output = functional_call(student.model, parameters, kwargs={"input_ids": batch, "use_cache": False})
        terms = _loss_terms(output.logits, full, outputs, targets)
        total = torch.stack(list(terms.values())).sum()
        take_step(optimizer, total, "the end-to-end pass", f"step {step}")
        for quantizer in quantizers:
            quantizer.after_step(_LARGEST_OFFSET)
        schedule.step()
        add_losses(sums, {**terms, "total": total})
        on_event(StepDone(len(quantizers), step, steps))
        if step * _REPORTS // steps > (step - 1) * _REPORTS // steps:
            means = {name: value / (step - reported) for name, value in sums.items()}
            on_event(EpochDone(len(quantizers), step * _REPORTS // steps, means))
            sums, reported = {}, step


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
    base: LoadedModel, spec: CalibrationSpec, quantizers: Sequence[BlockQuantizer]
) -> tuple[LoadedModel, list[str]]:
    """A model whose blocks get their weights per call, and the prefix of each block's names.

    It has the rounded embedding, and the LM head in full precision: no block depends on the head's bits.
    """
    originals = blocks_of(base.model)
    shared = [*originals, *base.model.parameters()]
    model = copy.deepcopy(base.model, memo={id(part): part for part in shared})
    round_embedding(model, resolve_tables(spec.precision, has_tied_tables(base.model)).embedding_bits)
    blocks = blocks_of(model)
    for index, block in enumerate(originals):
        blocks[index] = wrapped_copy(block, spec.precision, quantizers[index])
    names = {id(module): name for name, module in model.named_modules()}
    return LoadedModel(base.ref, model, base.tokenizer, spec.precision), [f"{names[id(b)]}." for b in blocks]


def segments_per_step(seq_len: int) -> int:
    """Segments of `seq_len` tokens in one optimizer step."""
    return max(1, STEP_TOKENS // seq_len)
