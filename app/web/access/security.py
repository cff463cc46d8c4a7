"""Who may talk to the page: hosts by name, no other site's requests, no body larger than a form needs."""

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web.access.accounts import Accounts
from app.web.access.addresses import KnownAddressesMiddleware
from app.web.access.login import LoginMiddleware

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")
MAX_BODY_BYTES = 1 << 20
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITE = frozenset({"same-origin", "none", ""})
POLICY = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
}


def names_of(host: str) -> tuple[str, ...]:
    """The names under which a server that listens on `host` is reached: this machine's own where it is everywhere."""
    if host not in ("0.0.0.0", "::"):
        return tuple(dict.fromkeys([*LOOPBACK_HOSTS, host]))
    interfaces = psutil.net_if_addrs().values()
    names = [a.address for interface in interfaces for a in interface if a.family == socket.AF_INET]
    return tuple(dict.fromkeys([*LOOPBACK_HOSTS, socket.gethostname(), *names]))


class BodyTooLargeError(ValueError):
    """A request's body is larger than any form of the page sends."""


def middleware(hosts: Sequence[str] = LOOPBACK_HOSTS, accounts: Accounts | None = None) -> list[Middleware]:
    """All checks in the order in which a request meets them. hosts: names under which this program is reached;
    accounts: who may log in, None where nobody has to.
    """
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        Middleware(SameSiteMiddleware),
        Middleware(KnownAddressesMiddleware),
        Middleware(BodyLimitMiddleware, limit=MAX_BODY_BYTES),
        Middleware(LoginMiddleware, accounts=accounts),
    ]


class SameSiteMiddleware:
    """Refuses what another site's page sends; a program without a browser sends neither header and passes.

    A link from elsewhere to the page itself is allowed: it changes nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not _from_own_site(scope):
            response = PlainTextResponse("This request came from another site and was refused.", 403)
            await response(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *POLICY.items()]
            await send(message)

        await self.app(scope, receive, with_policy)


class BodyLimitMiddleware:
    """Refuses a body that is too large: by its Content-Length, and by counting where there is none."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        too_large = PlainTextResponse(f"A request may have at most {self.limit} bytes.", 413)
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > self.limit:
            await too_large(scope, receive, send)
            return
        received, answered = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise BodyTooLargeError(f"more than {self.limit} bytes")
            return message

        async def unless_too_large(message: Message) -> None:
            nonlocal answered
            if received <= self.limit or answered:
                await send(message)
            if message["type"] == "http.response.start" and received <= self.limit:
                answered = True

        try:
            await self.app(scope, counted, unless_too_large)
        except BodyTooLargeError:
            pass
        if received > self.limit and not answered:
            await too_large(scope, receive, send)


def _from_own_site(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    method = scope.get("method", "GET")
    navigation = method in SAFE_METHODS and scope["path"] in ("", "/") and headers.get("sec-fetch-mode") == "navigate"
    if navigation:
        return True
    if headers.get("sec-fetch-site", "") not in OWN_SITE:
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")
