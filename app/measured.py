"""Measurements that stay in memory."""

import threading
from typing import Generic, TypeVar

from cachetools import LRUCache

Key = TypeVar("Key")
Value = TypeVar("Value")


class Measured(Generic[Key, Value]):
    """The most recently used measurements, by what they depend on. Safe to use from several threads."""

    def __init__(self, most: int) -> None:
        self._values: LRUCache[Key, Value] = LRUCache(most)
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The measurement, or None."""
        with self._lock:
            return self._values.get(key)

    def __setitem__(self, key: Key, value: Value) -> None:
        with self._lock:
            self._values[key] = value
