"""Thread counts, and the pool that runs the parts of a product."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

VARIABLE = "ABQ_THREADS"

# By default OpenMP threads spin for milliseconds while they wait, which slows torch more than tenfold on a busy system.
# Without spinning, every small operation pays for a wake-up: calibrating the built-in model on two threads takes three
# times as long. So they spin for microseconds, then sleep. torch reads these variables when it is imported.
THREADS_WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}


class ThreadsError(ValueError):
    """A number of threads that is not a positive integer."""


@cache
def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | None = None) -> int:
    """Return `threads`, or ABQ_THREADS, or all cores; never more than the cores.

    Raises ThreadsError.
    """
    if threads is None:
        text = os.environ.get(VARIABLE)
        if text is None:
            return cores()
        if not text.strip().isdecimal():
            raise ThreadsError(f"{VARIABLE} is {text!r}; set it to a number of threads, 1 or more, or unset it")
        threads = int(text)
    if threads < 1:
        raise ThreadsError(f"the number of threads is {threads}; use 1 or more")
    return min(threads, cores())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, cores() - 1), thread_name_prefix="abq-kernels")


def clock_of(threads: int) -> Callable[[], float]:
    """Return the clock for timing work on this many threads.

    One thread is timed by its CPU clock: on a busy machine long calls are preempted more often than short ones, which
    would favour the faster contender. Several threads are timed by the wall clock.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def run_ranges(work: Callable[[int, int], None], count: int, step: int, threads: int) -> None:
    """Call work(first, last) on up to `threads` ranges that cover 0 .. count.

    Ranges are split at multiples of `step`.
    One range runs in the calling thread. `work` must release the GIL to run in parallel.
    """
    parts = min(threads, -(-count // step))
    if parts <= 1:
        work(0, count)
        return
    cuts = [min(count, -(-count * part // (parts * step)) * step) for part in range(parts + 1)]
    others = [_pool().submit(work, first, last) for first, last in pairwise(cuts[1:])]
    work(cuts[0], cuts[1])
    for other in others:
        other.result()
