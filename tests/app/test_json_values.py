"""The JSON encoder.

Every kind of value that commands and services return, and how it reads as text.
"""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from app.json_values import to_json_text, to_json_values


@dataclass(frozen=True)
class Point:
    x: float
    labels: tuple[str, ...]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.5, 0.5),
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (pandas.NaT, None),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (Path("a/b"), "a/b"),
        ({1: (2, [np.int8(3)])}, {"1": [2, [3]]}),
        (Point(float("inf"), ("a", "b")), {"x": None, "labels": ["a", "b"]}),
    ],
)
def test_a_value_becomes_plain_json(value: object, expected: Any) -> None:
    found = to_json_values(value)
    assert found == expected and type(found) is type(expected)
    assert json.loads(to_json_text({"value": value})) == {"value": expected}


def test_text_is_indented_ends_with_a_newline_and_can_be_sorted() -> None:
    assert to_json_text({"b": 1, "a": 2}) == '{\n  "b": 1,\n  "a": 2\n}\n'
    assert to_json_text({"b": 1, "a": 2}, sort_keys=True) == '{\n  "a": 2,\n  "b": 1\n}\n'
