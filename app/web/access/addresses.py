"""IP addresses of clients: the network of one visitor, and the addresses of proxies."""

import ipaddress
from collections.abc import Iterable

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK = "127.0.0.0/8,::1"


class ProxyAddressError(ValueError):
    """An address of a proxy cannot be used."""


def parse_address(text: str) -> IPAddress | None:
    """The IP address, None for other text.

    A server that listens on "::" sees IPv4 addresses as IPv6 addresses: they are returned as IPv4 addresses.
    """
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def network_of(address: str) -> str:
    """The network of one visitor: an IPv4 address, or the /64 of an IPv6 address.

    Text that is not an IP address, such as the name of a Unix socket, is used unchanged.
    """
    found = parse_address(address)
    if found is None:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.ip_network((found.packed[:8] + bytes(8), 64)))


class Proxies:
    """The addresses of trusted proxies."""

    def __init__(self, networks: Iterable[IPNetwork] = ()) -> None:
        self._networks = tuple(networks)

    @classmethod
    def parse(cls, text: str = LOOPBACK) -> "Proxies":
        """Addresses and networks, separated by commas. Raises ProxyAddressError."""
        networks = []
        for part in text.split(","):
            try:
                networks.append(ipaddress.ip_network(part.strip()))
            except ValueError as error:
                raise ProxyAddressError(
                    f"{part.strip()[:80]!r} is not the address of a proxy. Use IP addresses and networks separated by "
                    "commas, for example 10.0.0.2,10.1.0.0/16."
                ) from error
        return cls(networks)

    def __contains__(self, address: str) -> bool:
        found = parse_address(address)
        return found is not None and any(found in network for network in self._networks)
