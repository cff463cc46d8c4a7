"""A cache whose entries go stale when the version of their source advances."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")
Version = tuple[int, int]

MAX_ENTRIES = 16


class VersionedCache(Generic[Value]):
    """Results of `load` by its arguments, at most MAX_ENTRIES.

    Safe to call from several threads.
    load: called for a missing or stale entry; callers share its result and must not modify it.
    version: current version of the source. An entry whose load began at version v serves every read that began at v or
    earlier. A reader therefore sees every write that this process finished before the read.
    """

    def __init__(self, load: Callable[..., Value], version: Callable[[], Version]) -> None:
        self._load, self._version = load, version
        self._entries: LRUCache[tuple[str, ...], tuple[Version, Value]] = LRUCache(MAX_ENTRIES)
        self._lock = threading.Lock()

    def read(self, *key: str) -> Value:
        """Return the value of a key.

        One thread loads it while the others wait; an error of `load` is not cached.
        """
        needed = self._version()
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry[0] < needed:
                entry = (self._version(), self._load(*key))
                self._entries[key] = entry
            return entry[1]
