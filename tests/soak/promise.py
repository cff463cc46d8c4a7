"""A promise about jobs and the check that measures it: what came out, and whether that is within the limit."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 240.0  # only a hang takes so long


@dataclass(frozen=True)
class Outcome:
    """figure: what was measured, in words.  held: whether that keeps the promise.  seconds: how long the check took."""

    figure: str
    held: bool
    seconds: float = 0.0


@dataclass(frozen=True)
class Promise:
    """check: called with an empty folder and whether the short form is wanted.

    timed: its figure is a time under load, so that nothing else may run beside it.
    minutes: roughly what the long form takes; of those that run beside one another the longest begin first.
    """

    name: str
    limit: str
    check: Callable[[Path, bool], Outcome]
    timed: bool = False
    minutes: int = 1


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> float:
    """Seconds until the condition holds. Raises TimeoutError."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"not in {seconds:.0f} s: {what}")
        time.sleep(0.01)
    return time.monotonic() - start


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share (0..1) of the values does not exceed."""
    return sorted(values)[max(0, min(len(values) - 1, round(share * len(values)) - 1))]
