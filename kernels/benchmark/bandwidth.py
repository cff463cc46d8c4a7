"""Upper limits of a one-token product: memory bandwidth and instruction throughput."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.arguments import Columns, Panels, Rows, Weight, weight_fields
from kernels.cpu.compile import compiled
from kernels.cpu.decode import PANELS, ROWS, dot_segment
from kernels.formats.random_weight import random_weight
from kernels.host.threads import clock_of, run_ranges, thread_count

_ROUNDS = 7
_STREAMS = 4
_ISSUE_COLUMNS, _ISSUE_REPEATS = 1024, 200


@compiled
def total(words: NDArray[np.uint64]) -> np.uint64:
    """Sum of uint64 words, each read once, in a few parallel streams like those of a product."""
    part = words.size // _STREAMS
    result = np.uint64(0)
    for i in range(part):
        result += words[i] + words[part + i] + words[2 * part + i] + words[3 * part + i]
    for i in range(_STREAMS * part, words.size):
        result += words[i]
    return result


def read_bandwidth(threads: int | None = None, nbytes: int = 64 << 20) -> float:
    """Read bandwidth in GB/s of `nbytes` bytes, the best of a few rounds.

    threads: None for `thread_count`.

    64 MiB is the limit for streaming a model's weights; the size of one weight is the limit for its warm timing.
    """
    words: NDArray[np.uint64] = np.ones(nbytes // 8, np.uint64)
    count = thread_count(threads)
    sums: list[int] = []

    def read(first: int, last: int) -> None:
        sums.append(int(total(words[first:last])))

    run_ranges(read, len(words), 4096, count)
    clock = clock_of(count)
    seconds = []
    for _ in range(_ROUNDS):
        start = clock()
        run_ranges(read, len(words), 4096, count)
        seconds.append(clock() - start)
    return words.nbytes / min(seconds) / 1e9


@compiled
def repeat_dot(fields: tuple[Any, ...], codes: NDArray[np.int8], totals: NDArray[np.int32], rounds: int) -> None:
    """Run the inner loop of decode over the same rows `rounds` times."""
    weight = Weight(*fields)
    for _ in range(rounds):
        dot_segment(weight, Panels(0, PANELS, 1), Columns(0, codes.shape[1]), codes, Rows(0, 1), totals)


def issue_limit() -> float:
    """GB/s of packed 2-bit weights that W2A8 decode consumes from the L1 cache.

    Measured on one thread.
    """
    weight = random_weight(np.random.default_rng(0), ROWS, _ISSUE_COLUMNS, 2, False, 8, None)
    fields = weight_fields(weight)
    codes, totals = np.zeros((1, _ISSUE_COLUMNS), np.int8), np.zeros((1, ROWS), np.int32)
    seconds = []
    for _ in range(_ROUNDS + 1):
        start = time.thread_time()
        repeat_dot(fields, codes, totals, _ISSUE_REPEATS)
        seconds.append(time.thread_time() - start)
    return weight.data.nbytes * _ISSUE_REPEATS / min(seconds[1:]) / 1e9
