"""What a one-token product cannot beat: how fast memory is read, and how fast instructions consume weights."""

import time

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled
from kernels.cpu.decode import ROWS, dot_segment
from kernels.formats.weight import aligned_zeros
from kernels.host.threads import clock_of, run_ranges, thread_count

_ROUNDS = 7
_STREAMS = 4
_ISSUE_COLUMNS, _ISSUE_REPEATS = 1024, 200


@compiled
def total(words: NDArray[np.uint64]) -> np.uint64:
    """Sum of uint64 words: one read of each, vectorised, in a few streams, as a product reads the rows of panels."""
    part = words.size // _STREAMS
    result = np.uint64(0)
    for i in range(part):
        result += words[i] + words[part + i] + words[2 * part + i] + words[3 * part + i]
    for i in range(_STREAMS * part, words.size):
        result += words[i]
    return result


def read_bandwidth(threads: int | None = None, nbytes: int = 64 << 20) -> float:
    """GB/s of reading nbytes once more, best of a few rounds, with this many threads (None: as `thread_count`).

    64 MiB shows what streaming a model's weights can reach; a weight's own size shows what its warm timing can.
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
def dot_again(
    data: NDArray[np.uint32],
    widths: NDArray[np.int64],
    columns: int,
    codes: NDArray[np.int8],
    totals: NDArray[np.int32],
    repeats: int,
) -> None:
    """The inner loop of decode over the same rows, again and again."""
    for _ in range(repeats):
        dot_segment(data, widths, 0, columns // 32, data.size * 16 // ROWS, 0, columns, codes, 0, 1, totals)


def issue_limit() -> float:
    """GB/s of packed 2-bit weights that one thread's W2A8 decode consumes when they lie in the first cache."""
    data = aligned_zeros(ROWS * _ISSUE_COLUMNS * 2 // 32)
    widths, codes = np.array([2]), np.zeros((1, _ISSUE_COLUMNS), np.int8)
    totals = np.zeros((1, ROWS), np.int32)
    seconds = []
    for _ in range(_ROUNDS + 1):
        start = time.thread_time()
        dot_again(data, widths, _ISSUE_COLUMNS, codes, totals, _ISSUE_REPEATS)
        seconds.append(time.thread_time() - start)
    return data.nbytes * _ISSUE_REPEATS / min(seconds[1:]) / 1e9
