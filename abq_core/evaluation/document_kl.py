"""KL divergence from full precision at every token of a document."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from abq_core.calibration.losses import kl_divergence
from abq_core.evaluation.block_pass import ignore_steps
from abq_core.evaluation.perplexity import LOGITS_AT_ONCE, EvaluationError, Side, check_vocabulary, too_large
from abq_core.models.loading import LoadedModel

WINDOW = 512  # tokens that a model reads at once, if its context is not shorter
SHORTEST = 2  # tokens of a document


class Window(NamedTuple):
    """A window that begins at token `start` of the document, and predicts the tokens first .. last - 1 of it."""

    start: int
    first: int
    last: int


@dataclass(frozen=True)
class Windows:
    """A document in overlapping windows, so that every token but the first ones has context.

    ids: (tokens,) int64, the document.  segments: (windows, length) int64, each with the prefix in front.  front: the
    length of the prefix.
    """

    ids: Tensor
    segments: Tensor
    front: int
    places: tuple[Window, ...]

    @classmethod
    def of(cls, ids: Tensor, prefix: tuple[int, ...], context: int) -> "Windows":
        """Cut ids (tokens,) int64. Windows overlap by a quarter.

        prefix: what the tokenizer puts in front of a text. Without one the first token is not predicted.
        Raises EvaluationError for a document of less than SHORTEST tokens.
        """
        count, front = len(ids), len(prefix)
        if count < SHORTEST:
            raise EvaluationError(f"The text has {count} tokens; at least {SHORTEST} are needed. Use a longer text.")
        body = min(WINDOW, context - front, count)
        starts = [*range(0, count - body, max(1, body - body // 4)), count - body]
        segments = torch.stack([torch.cat([torch.tensor(prefix).long(), ids[at : at + body]]) for at in starts])
        ends = [0 if prefix else 1, *(at + body for at in starts)]
        places = (Window(start, first, start + body) for start, first in zip(starts, ends, strict=False))
        return cls(ids, segments, front, tuple(places))


@torch.inference_mode()
def reference_side(reference: LoadedModel, windows: Windows) -> Side:
    """Full precision's reading of the windows, which every model is compared with. Raises EvaluationError."""
    return Side.of(reference, windows.segments, ignore_steps)


@torch.inference_mode()
def document_kl(model: LoadedModel, reference: Side, windows: Windows) -> pd.DataFrame:
    """KL(full || model) in nats at every predicted token of a document.

    Columns: position; kl; probability, full_probability: of the document's token; top, full_top: the most likely token
    of the model and of full precision, by id, and their top_probability and full_top_probability.
    Raises EvaluationError.
    """
    check_vocabulary(model, reference.model)
    own = Side.of(model, windows.segments, ignore_steps)
    parts = []
    for index, (start, first, last) in enumerate(windows.places):
        hidden = [side.hidden[index] for side in (own, reference)]
        for positions in torch.arange(first, last).split(max(1, LOGITS_AT_ONCE // model.vocabulary)):
            at = positions + windows.front - start - 1  # the states that predict these tokens
            log_q, log_p = (
                side.log_probabilities(states[at]).cpu() for side, states in zip((own, reference), hidden, strict=True)
            )
            kl = kl_divergence(log_p, log_q)
            if not torch.isfinite(kl).all():
                raise too_large(model, math.nan)
            parts.append({"position": positions, "kl": kl, **_chosen(log_q, log_p, windows.ids[positions])})
    return pd.concat(
        [pd.DataFrame({name: values.numpy() for name, values in part.items()}) for part in parts], ignore_index=True
    )


def _chosen(log_q: Tensor, log_p: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """Probabilities of the document's tokens, ids (tokens,), and of the most likely ones."""
    columns: dict[str, Tensor] = {}
    for name, log in (("", log_q), ("full_", log_p)):
        highest, top = log.max(-1)
        columns[f"{name}probability"] = log.gather(1, ids.unsqueeze(1)).squeeze(1).exp()
        columns |= {f"{name}top": top, f"{name}top_probability": highest.exp()}
    return columns
