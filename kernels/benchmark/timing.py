"""Alternating timings of several products, warm and cold.

Background load then affects all of them equally.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from kernels.host.threads import clock_of

_SAMPLE_SECONDS = 2e-3  # shorter calls are repeated within a sample
_MIN_ROUNDS, _MAX_ROUNDS = 9, 200
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_CACHE = 32 << 20
_CACHES_IN_ROTATION, _MOST_COPIES = 2, 128


@dataclass(frozen=True)
class Samples:
    """Seconds per call. warm: the same call is repeated.

    cold: each call reads another copy of the weight.
    """

    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)


@cache
def last_level_cache() -> int:
    """Bytes of the last-level cache; 32 MiB if the system does not report it."""
    found = {}
    for index in _CACHES.glob("index*"):
        try:
            level, size = int((index / "level").read_text()), (index / "size").read_text().strip()
            found[level] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return found[max(found)] if found else _USUAL_CACHE


def copies_beyond_cache(nbytes: int) -> int:
    """Number of copies, 1 to 128, that fill the last-level cache twice.

    nbytes: size of one copy.
    """
    return min(-(-_CACHES_IN_ROTATION * last_level_cache() // nbytes), _MOST_COPIES)


def alternate(products: Sequence[Sequence[Callable[[], Any]]], threads: int, budget_seconds: float) -> list[Samples]:
    """Time the products in turn; each is a list of callables, one per copy of its weight.

    A round times every product: its copies one after the other (cold), and the first copy repeatedly (warm).
    """
    clock = clock_of(threads)

    def seconds(runs: Sequence[Callable[[], Any]]) -> float:
        start = clock()
        for run in runs:
            run()
        return (clock() - start) / len(runs)

    once = [max(max(seconds(copies[:1]) for _ in range(2)), 1e-6) for copies in products]
    repeats = [max(1, int(_SAMPLE_SECONDS / first)) for first in once]
    calls = [2 * count + (len(copies) > 1) for count, copies in zip(repeats, products, strict=True)]
    round_seconds = sum(count * first for count, first in zip(calls, once, strict=True))
    rounds = int(np.clip(budget_seconds / round_seconds, _MIN_ROUNDS, _MAX_ROUNDS))
    samples = [Samples() for _ in products]
    next_copies = [cycle(copies) for copies in products]
    for _ in range(rounds):
        for copies, rotation, count, sample in zip(products, next_copies, repeats, samples, strict=True):
            sample.cold.append(seconds([next(rotation) for _ in range(count)]))
            if len(copies) > 1:  # a weight with one copy was just read
                copies[0]()
            sample.warm.append(seconds([copies[0]] * count))
    return samples
