"""KL divergence from full precision by full precision's confidence.

A damaged model may keep easy predictions and lose hard ones, or the reverse; one mean does not show which.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

EDGES = (0.0, 0.5, 0.9, 0.99, 1.0)  # of the highest probability


@dataclass(frozen=True)
class KlBucket:
    """The tokens that full precision predicts with a highest probability in [low, high).

    The last bucket includes its end, 1. share: of all tokens, 0 to 1.  kl_mean: in nats per token; None if there are no
    such tokens.
    """

    low: float
    high: float
    share: float
    kl_mean: float | None


def kl_buckets(confidence: np.ndarray, kl: np.ndarray) -> tuple[KlBucket, ...]:
    """Mean KL in each bucket of EDGES.

    confidence: (tokens,) highest probability of full precision, 0 to 1.  kl: (tokens,) in nats.
    """
    bucket = np.digitize(confidence, EDGES[1:-1])
    found = []
    for index, (low, high) in enumerate(pairwise(EDGES)):
        inside = kl[bucket == index]
        found.append(KlBucket(low, high, len(inside) / len(kl), float(inside.mean()) if len(inside) else None))
    return tuple(found)
