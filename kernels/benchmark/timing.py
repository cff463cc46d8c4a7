"""Times several products in turn, warm and cold, so that what else the machine does hits all alike."""

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
    """Seconds per call. warm: the call before was the same.  cold: each call reads another copy of the weight."""

    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)


@cache
def last_level_cache() -> int:
    """Bytes of the last cache before memory; 32 MiB where the system does not say."""
    found = {}
    for index in _CACHES.glob("index*"):
        try:
            level, size = int((index / "level").read_text()), (index / "size").read_text().strip()
            found[level] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return found[max(found)] if found else _USUAL_CACHE


def copies_beyond_cache(nbytes: int) -> int:
    """How many copies of so many bytes are twice what the last-level cache holds: 1, if one is, and 128 at most."""
    return min(-(-_CACHES_IN_ROTATION * last_level_cache() // nbytes), _MOST_COPIES)


def alternate(products: Sequence[Sequence[Callable[[], Any]]], threads: int, budget_seconds: float) -> list[Samples]:
    """Samples of each product, given as one callable per copy of its weight, taken in turn.

    A round times every product, its copies one after the other (cold) and the first copy again and again (warm).
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
            if len(copies) > 1:  # a weight too large for two copies was read just now
                copies[0]()
            sample.warm.append(seconds([copies[0]] * count))
    return samples
