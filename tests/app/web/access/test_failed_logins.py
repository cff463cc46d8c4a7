"""Budgets of failed logins."""

import pytest

from app.web.access.failed_logins import (
    MAX_FAILURES_PER_NAME,
    WINDOW_SECONDS,
    FailedLogins,
    network_of,
)


def test_a_name_without_failures_left_is_refused_to_addresses_that_have_failed() -> None:
    failures = FailedLogins(lambda: 0.0)
    for host in range(MAX_FAILURES_PER_NAME):
        failures.add("ada", f"198.51.100.{host}")
    assert failures.wait("ada", "198.51.100.0") == WINDOW_SECONDS
    assert failures.wait("bob", "198.51.100.0") == failures.wait("ada", "192.0.2.1") == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_budgets_are_by_ipv4_address_and_ipv6_network(address: str, network: str) -> None:
    assert network_of(address) == network
