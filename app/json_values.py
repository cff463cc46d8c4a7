"""The JSON encoder of `app`, for results of commands and services."""

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import date
from typing import Any


def to_json_values(value: object) -> Any:
    """Convert to what JSON holds.

    NumPy numbers become Python's; NaN, infinity and NaT become null; dates ISO 8601.
    Dataclasses and mappings become objects with text keys, lists and tuples become arrays, anything else its `str`.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json_values(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [to_json_values(item) for item in value]
    if isinstance(value, date):
        return None if value != value else value.isoformat()  # pandas.NaT is a date that is not equal to itself
    if hasattr(value, "item"):
        return to_json_values(value.item())
    return str(value)


def to_json_text(value: object, sort_keys: bool = False) -> str:
    """The value as indented JSON with a final newline."""
    return json.dumps(to_json_values(value), indent=2, sort_keys=sort_keys, allow_nan=False) + "\n"
