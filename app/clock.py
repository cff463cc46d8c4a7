"""The current time, in the form that storage requires."""

from datetime import UTC, datetime


def now() -> datetime:
    """The current time in UTC, with its time zone set."""
    return datetime.now(UTC)
