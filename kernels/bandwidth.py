"""How fast this machine reads memory: the ceiling of every one-token product."""

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.compile import compiled
from kernels.threads import clock_of, run_ranges, thread_count

_ROUNDS = 7


@compiled
def total(words: NDArray[np.uint64]) -> np.uint64:
    """Sum of uint64 words: one read of each, vectorised."""
    result = np.uint64(0)
    for word in words:
        result += word
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
