"""Log-likelihood of given texts under a model, in batches: what multiple-choice tasks compare. Knows token ids only."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from abq_core.evaluation.perplexity import LOGITS_AT_ONCE
from abq_core.models.loading import LoadedModel

Ids = Sequence[int]

_FORWARD_TOKENS = 2048  # padding included, that go through the blocks at once


class LikelihoodError(ValueError):
    """A continuation that has no likelihood under this model."""


@torch.inference_mode()
def log_likelihoods(
    model: LoadedModel, pairs: Sequence[tuple[Ids, Ids]], on_step: Callable[[int, int], None] | None = None
) -> list[tuple[float, bool]]:
    """For each (context, continuation): log p(continuation | context) in nats, and whether greedy decoding writes it.

    Where both together are longer than the model's context, the context loses its beginning; the last token is only
    predicted, never read. Pairs that read the same tokens share one pass. `on_step(done, total)` counts pairs, and may
    raise to stop. Raises LikelihoodError for an empty side, or a continuation that is longer than the model's context.
    """
    readers: dict[tuple[int, ...], list[int]] = {}  # what is read -> the pairs that read it
    for number, (context, continuation) in enumerate(pairs):
        _check(model, context, continuation)
        readers.setdefault((*context, *continuation)[-(model.context + 1) : -1], []).append(number)
    results: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    done = 0
    for batch in _batches(readers):
        hidden = model.hidden(_padded(batch))
        for row, read in enumerate(batch):
            for number in readers[read]:
                continuation = pairs[number][1]
                results[number] = _score(model, hidden[row, : len(read)][-len(continuation) :], continuation)
            done += len(readers[read])
        if on_step is not None:
            on_step(done, len(pairs))
    return results


def _check(model: LoadedModel, context: Ids, continuation: Ids) -> None:
    if not context or not continuation:
        raise LikelihoodError(
            f"A text of {len(context)} tokens followed by one of {len(continuation)} has no likelihood: both need at "
            "least 1."
        )
    if len(continuation) > model.context:
        raise LikelihoodError(
            f"A continuation of {len(continuation):,} tokens is longer than the context of '{model.ref}', "
            f"{model.context:,}. Use shorter texts, or a model with a longer context."
        )


def _batches(sequences: dict[tuple[int, ...], list[int]]) -> Iterator[list[tuple[int, ...]]]:
    """The sequences, longest first, in batches of so many tokens: those of similar length share little padding."""
    batch: list[tuple[int, ...]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > _FORWARD_TOKENS:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def _padded(batch: list[tuple[int, ...]]) -> Tensor:
    """(batch, longest) int64; what stands on the right of a sequence cannot be seen from it, so any token will do."""
    ids = torch.zeros(len(batch), len(batch[0]), dtype=torch.int64)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    return ids


def _score(model: LoadedModel, hidden: Tensor, continuation: Ids) -> tuple[float, bool]:
    """hidden (tokens, hidden), each of which predicts the token of the continuation at its place."""
    targets = torch.tensor(continuation)
    total, greedy = 0.0, True
    for part in torch.arange(len(targets)).split(max(1, LOGITS_AT_ONCE // model.vocabulary)):
        here = slice(int(part[0]), int(part[-1]) + 1)
        log_p = torch.log_softmax(model.logits(hidden[here]), dim=-1).cpu()
        total += log_p.gather(1, targets[here].unsqueeze(1)).double().sum().item()
        greedy = greedy and bool((log_p.argmax(-1) == targets[here]).all())
    return total, greedy
