"""Perplexity with its standard error, and the KL divergence from full precision per token."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from abq_core.calibration.hidden_states import HiddenStates
from abq_core.calibration.losses import kl_divergence
from abq_core.evaluation.block_pass import batches_of, last_hidden_states
from abq_core.evaluation.kl_buckets import KlBucket, kl_buckets
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.text.records import Protocol, TextRecord
from kernels.formats.activations import NotFiniteError

LOGITS_AT_ONCE = 1 << 22  # tokens times vocabulary per step: 16 MiB in float32, in several copies
_MAX_NATS = 700.0  # exp overflows beyond


class EvaluationError(ValueError):
    """A model that cannot be evaluated on these segments."""


@dataclass(frozen=True)
class Scores:
    """Measured values.

    perplexity_stderr: standard error from the spread of the segments' mean losses.  kl_mean, kl_median, kl_p99:
    KL(full || model) over tokens, in nats.  same_top: share of tokens with the same most likely next token.
    segment_losses: mean loss of each segment in nats per token, to compare two models on the same text.
    kl_buckets: KL by full precision's confidence; empty without a reference.
    """

    perplexity: float
    perplexity_stderr: float
    kl_mean: float
    kl_median: float
    kl_p99: float
    same_top: float
    segment_losses: tuple[float, ...]
    kl_buckets: tuple[KlBucket, ...]


@dataclass(frozen=True)
class Evaluation(Scores):
    """Scores with everything needed to compare and repeat them.

    protocol: how the text became segments.  kl_floor: KL that bfloat16 alone causes (`noise_floor.kl_floor`), in nats.
    stored_bits: per weight of the blocks' linears.  weight_bytes: of these linears.  bits_per_parameter, model_bytes:
    of the whole model (`planning.size`).  tokens: of the text that were read in total.  seconds: wall time.
    """

    protocol: Protocol
    kl_floor: float
    precision: str
    method: str
    stored_bits: float
    weight_bytes: int
    bits_per_parameter: float
    model_bytes: int
    tokens: int
    segments: int
    seq_len: int
    data: str
    text: TextRecord
    seed: int
    seconds: float


@torch.inference_mode()
def evaluate(
    model: LoadedModel,
    reference: LoadedModel | None,
    segments: Tensor,
    on_step: Callable[[int, int], None] | None = None,
    unscored: int = 0,
) -> Scores:
    """Score `model` on segments (n, tokens) int64 against `reference`, the full-precision model.

    Each model runs block by block over all segments, so that one block at a time is in memory in float32. If
    `reference` is None or the model itself, the KL values are 0 and same_top is 1. `on_step(done, total)` counts blocks
    and batches, and may raise to stop. unscored: predictions at the start of each segment that do not count, as in
    `TextRecord.unscored`. Raises EvaluationError.
    """
    _check(model, reference, segments, unscored)
    compared = None if reference is None or reference.model is model.model else reference
    losses: list[Tensor] = []
    compared_tokens: list[_Compared] = []
    batches = list(batches_of(segments))
    done, total = 0, len(batches) + sum(len(blocks_of(one.model)) for one in (model, compared) if one is not None)

    def advance() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, total)

    sides = [Side.of(one, segments, advance) for one in (model, compared) if one is not None]
    for batch in batches:
        loss, tokens = _score_batch(sides, segments[batch], batch, unscored)
        if not loss.mean() < _MAX_NATS:
            raise too_large(model, float(loss.mean()))
        losses.append(loss.double().mean(1))
        compared_tokens.append(tokens)
        advance()
    segment_losses = torch.cat(losses).numpy()
    perplexity, stderr = _perplexity(segment_losses)
    kl_parts, same, confidence = zip(*compared_tokens, strict=True)
    kl_values = torch.cat(kl_parts).double().numpy()
    return Scores(
        perplexity=perplexity,
        perplexity_stderr=stderr,
        kl_mean=float(kl_values.mean()),
        kl_median=float(np.median(kl_values)),
        kl_p99=float(np.quantile(kl_values, 0.99)),
        same_top=float(torch.cat(same).double().mean()),
        segment_losses=tuple(segment_losses.tolist()),
        kl_buckets=() if compared is None else kl_buckets(torch.cat(confidence).numpy(), kl_values),
    )


def too_large(model: LoadedModel, nats: float) -> EvaluationError:
    """The error of a model whose loss is not usable."""
    return EvaluationError(
        f"The {model.precision} model of '{model.ref}' loses {nats:.3g} nats per token, so its perplexity is not "
        "usable. Use more bits or another method."
    )


def perplexity_gap(better: Sequence[float], worse: Sequence[float]) -> tuple[float, float]:
    """The difference of two perplexities (worse minus better) and its standard error.

    Both arguments are `segment_losses` of the same segments. The standard error is that of paired differences: the
    segments' difficulty, which dominates the standard error of a perplexity, cancels. Raises EvaluationError.
    """
    if len(better) != len(worse) or len(better) < 2:
        raise EvaluationError(
            f"{len(better)} and {len(worse)} segment losses cannot be paired: evaluate both on the same segments, "
            "at least 2."
        )
    first, second = np.asarray(better), np.asarray(worse)
    low, high = math.exp(first.mean()), math.exp(second.mean())
    spread = (high * second - low * first).std(ddof=1)  # delta method on exp of both means
    return high - low, float(spread) / math.sqrt(len(first))


def _check(model: LoadedModel, reference: LoadedModel | None, segments: Tensor, unscored: int) -> None:
    if segments.ndim != 2 or segments.shape[0] < 2 or segments.shape[1] < 2 + unscored:
        raise EvaluationError(
            f"Segments of shape {tuple(segments.shape)} cannot be evaluated: a standard error needs at least 2 "
            f"segments of {2 + unscored} tokens."
        )
    if segments.shape[1] > model.context:
        raise EvaluationError(
            f"Segments of {segments.shape[1]:,} tokens are longer than the context of '{model.ref}', {model.context:,}."
        )
    if reference is not None:
        check_vocabulary(model, reference)


def check_vocabulary(model: LoadedModel, reference: LoadedModel) -> None:
    """Raises EvaluationError unless both models predict the same tokens."""
    if reference.vocabulary != model.vocabulary:
        raise EvaluationError(
            f"'{model.ref}' has {model.vocabulary:,} tokens and '{reference.ref}' {reference.vocabulary:,}: they "
            "cannot be compared token by token. Use the full-precision original as the reference."
        )


@dataclass(frozen=True)
class Side:
    """A model with its LM head and its last hidden states of all segments, (segments, tokens, hidden)."""

    model: LoadedModel
    head: nn.Module
    hidden: HiddenStates

    @classmethod
    def of(cls, model: LoadedModel, segments: Tensor, on_block: Callable[[], None]) -> "Side":
        """Raises EvaluationError if a value is not finite."""
        try:
            return cls(model, model.float_head(), last_hidden_states(model, segments, on_block))
        except NotFiniteError as error:  # raised by the packed engine
            raise too_large(model, math.nan) from error

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Of the next token, (..., vocabulary), for last hidden states (..., hidden)."""
        return torch.log_softmax(self.model.logits(hidden.to(self.model.model.device), self.head), dim=-1)


class _Compared(NamedTuple):
    """Tokens compared with full precision, each (tokens,): KL in nats, same top token bool, highest probability."""

    kl: Tensor
    same: Tensor
    confidence: Tensor


def _score_batch(sides: Sequence[Side], ids: Tensor, batch: slice, unscored: int) -> tuple[Tensor, _Compared]:
    """Score ids (b, t), segments `batch`, without materializing all logits of the batch.

    sides: the model, and the reference if there is one. Returns losses (b, n) in nats and the comparison of the
    b * n tokens, for n = t - 1 - unscored. Logits are computed for a few tokens at a time: with a large vocabulary
    those of a batch would not fit in memory.
    """
    targets = ids[:, unscored + 1 :].reshape(-1)
    hidden = [side.hidden[batch][:, unscored:-1].flatten(0, 1) for side in sides]
    losses = torch.empty(len(targets))
    kl, confidence = torch.zeros(len(targets)), torch.zeros(len(targets))
    same = torch.ones(len(targets), dtype=torch.bool)
    for part in torch.arange(len(targets)).split(max(1, LOGITS_AT_ONCE // sides[0].model.vocabulary)):
        here = slice(int(part[0]), int(part[-1]) + 1)
        log_q = sides[0].log_probabilities(hidden[0][here])
        chosen = targets[here].to(log_q.device).unsqueeze(1)
        losses[here] = -log_q.gather(1, chosen).squeeze(1).cpu()
        if len(sides) > 1:
            log_p = sides[1].log_probabilities(hidden[1][here]).to(log_q.device)
            kl[here] = kl_divergence(log_p, log_q).cpu()
            highest, top = log_p.max(-1)
            same[here] = (top == log_q.argmax(-1)).cpu()
            confidence[here] = highest.exp().cpu()
    return losses.view(len(ids), -1), _Compared(kl, same, confidence)


def _perplexity(segment_losses: np.ndarray) -> tuple[float, float]:
    """Perplexity, exp of the mean loss, with its standard error by the delta method.

    The standard error is the perplexity times the standard error of the mean loss.
    """
    perplexity = math.exp(segment_losses.mean())
    return perplexity, perplexity * float(segment_losses.std(ddof=1)) / math.sqrt(len(segment_losses))
