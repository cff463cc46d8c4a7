"""Numbers as the page writes them."""

import pytest

from app.web.tabs import words

MIB = 2**20


@pytest.mark.parametrize(
    ("size", "shown"),
    [(None, words.NOTHING), (3.77 * MIB, "3.77 MiB"), (99.99 * MIB, "99.99 MiB"), (1017.37 * MIB, "1017 MiB"),
     (1024 * MIB, "1.00 GiB"), (230.4 * 1024 * MIB, "230.40 GiB")],
)  # fmt: skip
def test_bytes_have_decimals_where_they_say_something(size: float | None, shown: str) -> None:
    assert words.mib(size) == shown
