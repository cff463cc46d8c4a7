"""Column types that round-trip on SQLite and PostgreSQL.

Times in UTC, and JSON objects with NaN and infinity.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect
from sqlalchemy.types import TypeDecorator

from storage.errors import UnstorableValueError

FLOAT_MARK = "$float"


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware time, stored in UTC.

    SQLite stores it as text without a zone, which sorts by time.
    Raises UnstorableValueError for a time without a time zone.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a Python value to what the column stores."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise UnstorableValueError(f"The time {value} has no time zone. Pass datetime.now(UTC).")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a stored value to a Python value."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonObject(TypeDecorator[dict[str, Any]]):
    """A dict of JSON values.

    NaN and infinity, which JSON lacks but a diverged run produces, are stored as objects.
    Raises UnstorableValueError for values that JSON cannot hold, and for keys that are not strings.
    """

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: Dialect) -> Any:
        """Convert a Python value to what the column stores."""
        return None if value is None else _encode(value, "")

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:
        """Convert a stored value to a Python value."""
        return None if value is None else dict(_decode(value))


def _encode(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {FLOAT_MARK: repr(float(value))}
    if isinstance(value, Mapping):
        return {_key(key, where): _encode(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise UnstorableValueError(
        f"{where or 'The value'} is a {type(value).__name__} ({value!r:.80}), which JSON cannot hold. "
        "Pass plain Python numbers, strings, lists and dicts."
    )


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise UnstorableValueError(f"The key {key!r} in {where or 'the value'} is not a string. Pass str({key!r}).")
    if key == FLOAT_MARK:
        raise UnstorableValueError(f"The key {key!r} in {where or 'the value'} marks a float here. Use another name.")
    return key


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {FLOAT_MARK}:
            return float(value[FLOAT_MARK])
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
