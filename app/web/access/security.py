"""Access checks of every request: proxy, host name, origin, URL path, body, login."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.access.accounts import Accounts
from app.web.access.addresses import Proxies
from app.web.access.forwarded import ForwardedMiddleware
from app.web.access.login import LoginMiddleware
from app.web.access.paths import URL_OF_TEXTS, KnownPathsMiddleware
from app.web.access.visitor_texts import MAX_TEXT_BYTES

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")
MAX_BODY_BYTES, MAX_BODY_SECONDS = 1 << 20, 20.0
MAX_TEXT_SECONDS = 60.0  # for a text that a visitor adds, of at most MAX_TEXT_BYTES
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITE = frozenset({"same-origin", "none", ""})
POLICY = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Host names of a server that listens on `host`; for "0.0.0.0" and "::" all IPv4 addresses of this machine."""
    if host not in ("0.0.0.0", "::"):
        return tuple(dict.fromkeys([*LOOPBACK_HOSTS, host]))
    interfaces = psutil.net_if_addrs().values()
    names = [a.address for interface in interfaces for a in interface if a.family == socket.AF_INET]
    return tuple(dict.fromkeys([*LOOPBACK_HOSTS, socket.gethostname(), *names]))


class BodyRefusedError(ValueError):
    """A request body is too large, or takes too long."""


def middleware(
    hosts: Sequence[str] = LOOPBACK_HOSTS, accounts: Accounts | None = None, proxies: Proxies | None = None
) -> list[Middleware]:
    """All access checks, in the order in which they run.

    hosts: host names that requests may use. accounts: None disables the login. proxies: whose forwarded headers count.
    """
    return [
        Middleware(ForwardedMiddleware, proxies=proxies or Proxies()),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        Middleware(SameSiteMiddleware),
        Middleware(KnownPathsMiddleware),
        Middleware(
            BodyLimitMiddleware,
            limit=MAX_BODY_BYTES,
            seconds=MAX_BODY_SECONDS,
            larger={URL_OF_TEXTS: (MAX_TEXT_BYTES, MAX_TEXT_SECONDS)},
        ),
        Middleware(LoginMiddleware, accounts=accounts),
    ]


class SameSiteMiddleware:
    """Refuse requests of other sites' pages, by Sec-Fetch-Site and Origin, and add security headers to responses.

    Programs send neither header and pass. A link from another site to the page is allowed: it changes nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not _from_own_site(scope):
            response = PlainTextResponse("This request came from another site and was refused.", 403)
            await response(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *POLICY.items()]
            await send(message)

        await self.app(scope, receive, send_with_policy)


class BodyLimitMiddleware:
    """Refuse a body that is too large or arrives too slowly.

    Its size is known from its Content-Length, or counted while it arrives.
    limit: in bytes.  larger: limit and seconds of paths with these beginnings.
    """

    def __init__(
        self, app: ASGIApp, limit: int, seconds: float, larger: Mapping[str, tuple[int, float]] | None = None
    ) -> None:
        self.app, self._usual, self._larger = app, (limit, seconds), larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        larger = (limits for start, limits in self._larger.items() if scope["path"].startswith(start))
        size, seconds = next(larger, self._usual)
        too_large = PlainTextResponse(f"The request body is too large: the limit is {size} bytes.", 413)
        too_slow = PlainTextResponse(
            f"The request body did not arrive within {seconds:g} seconds.", 408, {"Connection": "close"}
        )
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > size:
            await too_large(scope, receive, send)
            return
        received, answered = 0, False
        deadline: float | None = asyncio.get_running_loop().time() + seconds  # None when the body is complete
        refusal: Response | None = None

        async def limited() -> Message:
            nonlocal received, deadline, refusal
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                refusal = too_slow
                raise BodyRefusedError(f"more than {seconds:g} seconds") from error
            if not message.get("more_body", False):
                deadline = None
            received += len(message.get("body", b""))
            if received > size:
                refusal = too_large
                raise BodyRefusedError(f"more than {size} bytes")
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal answered
            if refusal is None or answered:
                await send(message)
            if message["type"] == "http.response.start" and refusal is None:
                answered = True

        try:
            await self.app(scope, limited, send_unless_refused)
        except (BodyRefusedError, ClientDisconnect):
            pass
        if refusal is not None and not answered:
            await refusal(scope, receive, send)


def _from_own_site(scope: Scope) -> bool:
    """True if a program, the page itself, or a link to the page sent the request."""
    headers = Headers(scope=scope)
    method = scope.get("method", "GET")
    navigation = method in SAFE_METHODS and scope["path"] in ("", "/") and headers.get("sec-fetch-mode") == "navigate"
    if navigation:
        return True
    if headers.get("sec-fetch-site", "") not in OWN_SITE:
        return False
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # such as "http://["
        return False
