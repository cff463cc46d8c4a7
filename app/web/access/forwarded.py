"""Headers of proxies: the client's address, and the scheme and host of the page's URL."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.access.addresses import Proxies, parse_address

# X-Gradio-Server: Gradio would take the page's URL from it.
_NAMES = frozenset({b"forwarded", b"x-real-ip", b"x-gradio-server"})
_PREFIX = b"x-forwarded-"


class ForwardedMiddleware:
    """Apply X-Forwarded-For, -Proto and -Host of trusted proxies.

    These headers are removed from every request. Only the last value of a header counts: the one that the proxy itself
    added; values before it come from the client. The host is checked by the next middleware, like every other.
    """

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self.app, self.proxies = app, proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "lifespan":
            client = scope.get("client")
            scope = _applied(scope) if client and client[0] in self.proxies else {**scope, "headers": _others(scope)}
        await self.app(scope, receive, send)


def _applied(scope: Scope) -> Scope:
    """The request as the proxy received it, as far as the values of its headers are valid."""
    changed = {**scope, "headers": _others(scope)}
    if address := parse_address(_without_port(_last(scope, b"x-forwarded-for"))):
        changed["client"] = (str(address), 0)
    if (scheme := _last(scope, b"x-forwarded-proto")) in ("http", "https"):
        changed["scheme"] = scheme
    if host := _last(scope, b"x-forwarded-host"):
        headers = [header for header in changed["headers"] if header[0] != b"host"]
        changed["headers"] = [*headers, (b"host", host.encode("latin-1"))]
    return changed


def _others(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers without those that only a proxy may send. ASGI header names are in lower case."""
    return [(name, value) for name, value in scope["headers"] if name not in _NAMES and not name.startswith(_PREFIX)]


def _last(scope: Scope, wanted: bytes) -> str:
    """The last of the comma-separated values of a header, "" without the header."""
    values = [value for name, value in scope["headers"] if name == wanted]
    return values[-1].decode("latin-1").rpartition(",")[2].strip() if values else ""


def _without_port(text: str) -> str:
    """An address as some proxies write it: 192.0.2.1:1234, [2001:db8::1] or [2001:db8::1]:1234."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, colon, _ = text.partition(":")
    return host if colon and text.count(":") == 1 else text
