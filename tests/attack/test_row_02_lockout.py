"""Wrong logins from one address do not lock out the owner of the name at another address."""

from collections import Counter
from collections.abc import Callable

import pytest
from account_cases import PASSWORD
from page_process import PageProcess

pytestmark = pytest.mark.attack(row=2)

GUESSES = 70


def log_in(page: PageProcess, address: str, name: str, password: str) -> int:
    """Status of a login from an address."""
    with page.client(source=address) as client:
        return client.post("/login", data={"username": name, "password": password}).status_code


def test_guessing_locks_out_only_the_address_that_guesses(page: PageProcess, tried: Callable[[int], None]) -> None:
    statuses = Counter(log_in(page, "127.0.2.1", "bob", f"wrong {number}") for number in range(GUESSES))
    tried(GUESSES)
    assert log_in(page, "127.0.2.2", "bob", PASSWORD) == 200
    assert log_in(page, "127.0.2.1", "bob", PASSWORD) == 429
    assert statuses == {401: 10, 429: GUESSES - 10}


def test_guesses_from_many_addresses_do_not_lock_out_the_owner(page: PageProcess, tried: Callable[[int], None]) -> None:
    for number in range(15):
        assert log_in(page, f"127.0.2.{10 + number}", "bob", "wrong") == 401
    tried(15)
    assert log_in(page, "127.0.2.10", "bob", "wrong again") == 429
    assert log_in(page, "127.0.2.3", "bob", PASSWORD) == 200
