"""A promise about jobs or the server, the check that measures it, and the outcome."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 240.0  # only a hang takes this long


@dataclass(frozen=True)
class Outcome:
    """figure: the measured result, in words.  held: whether it keeps the promise.

    seconds: duration of the check.
    """

    figure: str
    held: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class Promise:
    """A promise with its limit, in words.

    check: called with an empty folder and True for the short form.
    timed: the figure is a time under load, so no other check may run at the same time.
    minutes: approximate duration of the long form; among parallel checks the longest start first.
    """

    name: str
    limit: str
    check: Callable[[Path, bool], Outcome]
    timed: bool = False
    minutes: int = 1


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """Wait until the condition holds. Returns the seconds waited. Raises TimeoutError."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"not in {seconds:.0f} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - start


def percentile(values: Sequence[float], share: float) -> float:
    """The quantile at `share` (0..1), as one of the values."""
    return sorted(values)[max(0, min(len(values) - 1, round(share * len(values)) - 1))]
