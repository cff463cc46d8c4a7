"""Precision names of the kernels."""

import pytest

from kernels.precision_names import BenchError, parse_precision


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("W2A8", (2, False, 8, None)),
        ("W2*A8", (2, True, 8, None)),
        ("w4a4g128", (4, False, 4, 128)),
        ("W3A16", (3, False, 16, None)),
        ("W6A6kv8", (6, False, 6, None)),
        ("W4A8g64kv8h8e4", (4, False, 8, 64)),
        ("W4A8h8", (4, False, 8, None)),
    ],
)
def test_names_are_parsed(name: str, parts: tuple[int, bool, int, int | None]) -> None:
    assert parse_precision(name) == parts


@pytest.mark.parametrize("name", ["W4A8g0", "W4A8g", "W9A8", "W4A9"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BenchError, match=name):
        parse_precision(name)
