"""Networks of visitors, and addresses of proxies."""

import pytest

from app.web.access.addresses import Proxies, ProxyAddressError, network_of


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


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1"])
def test_the_proxy_of_this_machine_may_have_any_loopback_address(address: str) -> None:
    assert address in Proxies.parse()
    assert address not in Proxies()


def test_proxies_are_addresses_and_networks() -> None:
    proxies = Proxies.parse("10.0.0.2, 2001:db8::/32")
    assert "10.0.0.2" in proxies and "2001:db8:1::7" in proxies
    assert not any(address in proxies for address in ("10.0.0.3", "127.0.0.1", "testclient", ""))
    for text in ("*", "proxy.example", "10.0.0.2,", "10.0.0.2/8"):
        with pytest.raises(ProxyAddressError, match="not the address of a proxy"):
            Proxies.parse(text)
