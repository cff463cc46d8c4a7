"""The crossover M between the packed kernel and unpack-then-GEMM, autotuned per weight kind.

Both are timed on this processor on first use; the result is cached on disk under the processor's name.
"""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

from kernels.host.cache_files import cache_folder, write_atomically
from kernels.host.processor import cpu_name, target

ALWAYS_UNPACKED = 64  # from this many tokens on, nothing is timed
_TIMED = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
_CLEARLY = 0.95  # of the time unpacked: the timed weight is in a cache, and a larger one favours unpacking
_FORMAT = 4  # one more whenever a kernel's speed changes


class CrossoverTable:
    """The largest number of tokens for which the packed kernel is faster, by kind of weight."""

    def __init__(self, folder: Path | None = None) -> None:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", f"{cpu_name()} {target().name}").strip("-").lower()
        self.path = (folder or cache_folder("cpu")) / f"crossover-{stem}.json"
        self._lock = threading.Lock()
        self._known: dict[str, int] | None = None

    def last_packed(self, kind: str, seconds: Callable[[int], tuple[float, float]]) -> int:
        """Return the crossover of a kind of weight; on first use, time it and store it.

        seconds(m): of a product of m tokens with the packed kernel, and with unpack-then-GEMM.
        """
        with self._lock:
            if self._known is None:
                self._known = _read(self.path)
            if kind not in self._known:
                self._known[kind] = _last_packed(seconds)
                content = {"format": _FORMAT, "cpu": cpu_name(), "last_packed": self._known}
                write_atomically(self.path, json.dumps(content, indent=1).encode())
            return self._known[kind]


def _last_packed(seconds: Callable[[int], tuple[float, float]]) -> int:
    last = 1
    for m in _TIMED:
        packed, unpacked = seconds(m)
        if packed > _CLEARLY * unpacked:
            return last
        last = m
    return last


def _read(path: Path) -> dict[str, int]:
    """Return the stored table; empty if the file is missing, broken or of another format."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    table = stored.get("last_packed") if isinstance(stored, dict) and stored.get("format") == _FORMAT else None
    if not isinstance(table, dict) or not all(type(m) is int and 1 <= m < ALWAYS_UNPACKED for m in table.values()):
        return {}
    return table
