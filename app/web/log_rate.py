"""One log line a second for each kind of message, so that clients cannot fill the disk."""

import logging
import time
from collections.abc import Callable

from cachetools import LRUCache

MAX_KINDS = 256


class OncePerSecond(logging.Filter):
    """Passes one record per second of each kind; the next one tells how many were dropped.

    A kind is the logger, the type of the exception and the first line of the message, before its values are filled in.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed: LRUCache[tuple[object, ...], tuple[float, int]] = LRUCache(MAX_KINDS)  # kind -> time, dropped

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log the record."""
        raised = record.exc_info[0] if record.exc_info else None
        kind = (record.name, raised, str(record.msg).partition("\n")[0][:200])
        now = self._clock()
        last, dropped = self._passed.get(kind, (float("-inf"), 0))
        if now - last < 1.0:
            self._passed[kind] = (last, dropped + 1)
            return False
        self._passed[kind] = (now, 0)
        if dropped:
            record.msg = f"{str(record.msg).rstrip()} ({dropped} more since the last such line)"
        return True
