"""Budgets of failed logins."""

from app.web.access.failed_logins import (
    MAX_FAILURES_PER_NAME,
    WINDOW_SECONDS,
    FailedLogins,
)


def test_a_name_without_failures_left_is_refused_to_addresses_that_have_failed() -> None:
    failures = FailedLogins(lambda: 0.0)
    for host in range(MAX_FAILURES_PER_NAME):
        failures.add("ada", f"198.51.100.{host}")
    assert failures.wait("ada", "198.51.100.0") == WINDOW_SECONDS
    assert failures.wait("bob", "198.51.100.0") == failures.wait("ada", "192.0.2.1") == 0
