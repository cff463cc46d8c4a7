"""Rate limit with a sliding window for each key, in bounded memory."""

import threading
import time
from collections import deque
from collections.abc import Callable

from cachetools import LRUCache

MAX_KEYS = 4096


class RateLimit:
    """At most `limit` events per `seconds` for each key. Thread-safe.

    Of more than MAX_KEYS keys the least recently used are forgotten.
    """

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.seconds, self._clock = limit, seconds, clock
        self._times: LRUCache[str, deque[float]] = LRUCache(MAX_KEYS)
        self._lock = threading.Lock()

    def hit(self, key: str) -> float:
        """Count an event and return 0. At the limit, count nothing and return the seconds to wait."""
        with self._lock:
            now = self._clock()
            times = self._recent(key, now)
            if len(times) >= self.limit:
                return self.seconds - (now - times[0])
            times.append(now)
            self._times[key] = times
            return 0.0

    def wait(self, key: str) -> float:
        """Seconds until the next event of this key is allowed, 0 if now. Counts nothing."""
        with self._lock:
            now = self._clock()
            times = self._recent(key, now)
            return self.seconds - (now - times[0]) if len(times) >= self.limit else 0.0

    def count(self, key: str) -> int:
        """Number of this key's events within the window."""
        with self._lock:
            return len(self._recent(key, self._clock()))

    def _recent(self, key: str, now: float) -> deque[float]:
        """Times of the key's events within the window, oldest first."""
        times = self._times.get(key, deque())
        while times and now - times[0] >= self.seconds:
            times.popleft()
        return times
