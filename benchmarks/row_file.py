"""Rows of figures in a JSON file, a line each, kept as they are finished, so that a cut run can be resumed."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class RowFile:
    """What was asked for and what was found. Two processes may add to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was found for this question; None where it was never asked."""
        return next((row["found"] for row in self._rows() if row["asked"] == asked), None)

    def add(self, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Keep an answer; an earlier one to the same question goes."""
        with self._locked():
            rows = [row for row in self._rows() if row["asked"] != asked]
            rows.append({"asked": dict(asked), "found": dict(found)})
            fresh = self.path.with_suffix(".new")
            fresh.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
            os.replace(fresh, self.path)

    def _rows(self) -> list[dict[str, Any]]:
        return json.loads(self.path.read_text()) if self.path.is_file() else []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)  # locked itself, so that no lock file stays behind
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
