"""Headers of proxies: used if a trusted proxy sent them, removed otherwise."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from app.web.access.addresses import Proxies
from app.web.access.forwarded import ForwardedMiddleware

PROXY, STRANGER = "127.0.0.1", "192.0.2.7"


def forwarded(client: str | None, *headers: tuple[str, str], proxies: Proxies | None = None) -> Scope:
    """The request as the page sees it."""
    seen: list[Scope] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = {
        "type": "http",
        "client": client and (client, 1234),
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in (("host", "127.0.0.1"), *headers)],
    }
    asyncio.run(ForwardedMiddleware(page, proxies or Proxies.parse())(scope, None, None))  # type: ignore[arg-type]
    return seen[0]


@pytest.mark.parametrize("client", [STRANGER, None])
def test_headers_of_strangers_are_removed(client: str | None) -> None:
    names = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "x-real-ip", "x-gradio-server")
    seen = forwarded(client, *((name, "198.51.100.1") for name in names), ("accept", "*/*"))
    assert seen["headers"] == [(b"host", b"127.0.0.1"), (b"accept", b"*/*")]
    assert seen["client"] == (client and (client, 1234)) and seen["scheme"] == "http"


def test_without_proxies_loopback_is_a_stranger() -> None:
    seen = forwarded(PROXY, ("x-forwarded-for", "198.51.100.1"), proxies=Proxies([]))
    assert seen["client"] == (PROXY, 1234) and seen["headers"] == [(b"host", b"127.0.0.1")]


def test_a_trusted_proxy_speaks_for_one_hop() -> None:
    seen = forwarded(
        PROXY,
        ("x-forwarded-for", "203.0.113.9"),  # sent by the client
        ("x-forwarded-for", "203.0.113.8, 198.51.100.1"),
        ("x-forwarded-proto", "http, https"),
        ("x-forwarded-host", "evil.example, abq.example"),
        ("x-gradio-server", "https://evil.example"),
    )
    assert seen["client"] == ("198.51.100.1", 0) and seen["scheme"] == "https"
    assert seen["headers"] == [(b"host", b"abq.example")]


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("198.51.100.1:4711", "198.51.100.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("203.0.113.9, 127.0.0.1", "127.0.0.1"),
        ("unknown", PROXY),
        ("198.51.100.1, ", PROXY),
        ("", PROXY),
    ],
)
def test_addresses_as_proxies_write_them(value: str, address: str) -> None:
    assert forwarded(PROXY, ("x-forwarded-for", value))["client"][0] == address


def test_other_schemes_are_ignored() -> None:
    assert forwarded(PROXY, ("x-forwarded-proto", "javascript"))["scheme"] == "http"
