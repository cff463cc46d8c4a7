"""Shared by the storage tests: a spec, a manual clock, and the URL of a SQLite database."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

SPEC = {"model": "builtin", "precision": "W4A4", "method": "abq", "segments": 32}


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'abq.db'}"


class Clock:
    """A clock that advances only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def move(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now
