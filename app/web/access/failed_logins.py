"""Budgets of failed logins, by address and by account name."""

import time
from collections.abc import Callable

from app.web.access.addresses import network_of
from app.web.access.rates import RateLimit

MAX_FAILURES_PER_ADDRESS = 10
MAX_FAILURES_PER_NAME = 10
WINDOW_SECONDS = 300.0


class FailedLogins:
    """Failed logins of the last WINDOW_SECONDS. Successful logins are not counted.

    No budget is shared by all visitors, and a name's budget applies only to addresses that have failed themselves.
    Guessing passwords therefore never locks out users at other addresses, including the owner of the guessed name.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._by_address = RateLimit(MAX_FAILURES_PER_ADDRESS, WINDOW_SECONDS, clock)
        self._by_name = RateLimit(MAX_FAILURES_PER_NAME, WINDOW_SECONDS, clock)

    def wait(self, name: str, address: str) -> float:
        """Seconds until this address may try this name again, 0 if it may try now."""
        network = network_of(address)
        if not self._by_address.count(network):
            return 0.0
        return max(self._by_address.wait(network), self._by_name.wait(name))

    def add(self, name: str, address: str) -> None:
        """Count a failed login."""
        self._by_address.hit(network_of(address))
        self._by_name.hit(name)
