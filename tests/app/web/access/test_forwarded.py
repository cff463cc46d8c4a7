"""Headers of proxies: used if a trusted proxy sent them, removed otherwise."""

import asyncio
from pathlib import Path

import httpx
import pytest
from app_cases import settings_in
from starlette.types import Receive, Scope, Send

from app.services import open_services
from app.web.access.addresses import Proxies
from app.web.access.forwarded import ForwardedMiddleware
from app.web.access.security import LOOPBACK_HOSTS
from app.web.dashboard import web_application

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it

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


def test_the_page_has_the_address_that_the_proxy_names(tmp_path: Path) -> None:
    """A proxy that passes on its own Host header, as nginx does by default, and the name of the page separately."""
    services = open_services(settings_in(tmp_path))

    async def config(**headers: str) -> httpx.Response:
        page = web_application(services, (*LOOPBACK_HOSTS, "abq.example"), proxies=Proxies.parse())
        transport = httpx.ASGITransport(page, client=(PROXY, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            return await client.get("/config", headers={name.replace("_", "-"): headers[name] for name in headers})

    own = asyncio.run(config(x_forwarded_host="abq.example", x_forwarded_proto="https", origin="https://abq.example"))
    assert own.json()["root"] == "https://abq.example"
    assert asyncio.run(config(x_forwarded_host="evil.example")).status_code == 400


def test_other_schemes_are_ignored() -> None:
    assert forwarded(PROXY, ("x-forwarded-proto", "javascript"))["scheme"] == "http"
