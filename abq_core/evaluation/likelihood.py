"""Batched log-likelihoods of token sequences, for multiple-choice tasks."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from abq_core.evaluation.perplexity import LOGITS_AT_ONCE
from abq_core.models.loading import LoadedModel

Ids = Sequence[int]

_FORWARD_TOKENS = 2048  # per forward pass, padding included


class LikelihoodError(ValueError):
    """A continuation whose likelihood is not defined under this model."""


@torch.inference_mode()
def log_likelihoods(
    model: LoadedModel, pairs: Sequence[tuple[Ids, Ids]], on_step: Callable[[int, int], None] | None = None
) -> list[tuple[float, bool]]:
    """Score each (context, continuation) pair of token ids.

    Returns log p(continuation | context) in nats, and whether greedy decoding produces the continuation.

    If both together exceed the model's context, the start of the context is dropped; the last token is predicted but
    not an input. Pairs with equal inputs share one forward pass. `on_step(done, total)` counts pairs, and may raise to
    stop. Raises LikelihoodError for an empty side, or a continuation longer than the model's context.
    """
    pairs_of: dict[tuple[int, ...], list[int]] = {}  # input tokens -> indices of the pairs that share them
    for number, (context, continuation) in enumerate(pairs):
        _check(model, context, continuation)
        pairs_of.setdefault((*context, *continuation)[-(model.context + 1) : -1], []).append(number)
    results: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    done = 0
    for batch in _batches(list(pairs_of)):
        hidden = model.hidden(_padded(batch))
        for row, inputs in enumerate(batch):
            for number in pairs_of[inputs]:
                continuation = pairs[number][1]
                results[number] = _score(model, hidden[row, : len(inputs)][-len(continuation) :], continuation)
            done += len(pairs_of[inputs])
        if on_step is not None:
            on_step(done, len(pairs))
    return results


def _check(model: LoadedModel, context: Ids, continuation: Ids) -> None:
    if not context or not continuation:
        raise LikelihoodError(
            f"A context of {len(context)} tokens and a continuation of {len(continuation)} have no likelihood: both "
            "need at least 1."
        )
    if len(continuation) > model.context:
        raise LikelihoodError(
            f"A continuation of {len(continuation):,} tokens is longer than the context of '{model.ref}', "
            f"{model.context:,}. Use shorter texts, or a model with a longer context."
        )


def _batches(sequences: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Batches of at most _FORWARD_TOKENS tokens, longest sequences first.

    Sequences of similar length then share a batch.
    """
    batch: list[tuple[int, ...]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > _FORWARD_TOKENS:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def _padded(batch: list[tuple[int, ...]]) -> Tensor:
    """(batch, longest) int64, padded on the right.

    Causal attention never sees the padding, so any token serves.
    """
    ids = torch.zeros(len(batch), len(batch[0]), dtype=torch.int64)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids


def _score(model: LoadedModel, hidden: Tensor, continuation: Ids) -> tuple[float, bool]:
    """Score a continuation.

    hidden: (tokens, hidden), the state that predicts each of its tokens.
    """
    targets = torch.tensor(continuation)
    total, greedy = 0.0, True
    for part in torch.arange(len(targets)).split(max(1, LOGITS_AT_ONCE // model.vocabulary)):
        here = slice(int(part[0]), int(part[-1]) + 1)
        log_p = torch.log_softmax(model.logits(hidden[here]), dim=-1).cpu()
        total += log_p.gather(1, targets[here].unsqueeze(1)).double().sum().item()
        greedy = greedy and bool((log_p.argmax(-1) == targets[here]).all())
    return total, greedy
