"""Benchmark results in a JSON file, one row per line, written as they finish, so that a run can be resumed."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class RowFile:
    """A file of rows {"asked": key, "found": results}.

    Several processes may add to the same file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the results stored under this key, or None."""
        return next((row["found"] for row in self.rows() if row["asked"] == key), None)

    def add(self, key: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Store results, replacing those stored under the same key."""
        with self._locked():
            rows = [row for row in self.rows() if row["asked"] != key]
            rows.append({"asked": dict(key), "found": dict(results)})
            fresh = self.path.with_suffix(".new")
            fresh.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
            os.replace(fresh, self.path)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, {"asked": key, "found": results}, in the order in which they were stored."""
        return json.loads(self.path.read_text()) if self.path.is_file() else []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)  # the folder itself is locked, so that no lock file remains
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
