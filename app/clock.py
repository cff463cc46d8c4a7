"""The time of day, in the one form that storage takes."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present, in UTC and aware of it."""
    return datetime.now(UTC)
