"""Who may talk to the page: hosts by name, no other site's requests, no body larger than a form needs."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
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


class BodyTooLargeError(ValueError):
    """A request's body is larger than any form of the page sends."""


def middleware(hosts: Sequence[str] = LOOPBACK_HOSTS) -> list[Middleware]:
    """All checks in the order in which a request meets them. hosts: names under which this program is reached."""
    return [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        Middleware(SameSiteMiddleware),
        Middleware(BodyLimitMiddleware, limit=MAX_BODY_BYTES),
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
        received, started = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise BodyTooLargeError(f"more than {self.limit} bytes")
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except BodyTooLargeError:
            if started:
                raise
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
