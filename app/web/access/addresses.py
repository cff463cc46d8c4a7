"""The addresses under which the page answers. Everything else that the web framework brings along is closed.

Uploads, files by path, streams, proxies, saved states and monitoring are not used here, so nobody can abuse them.
"""

import re

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_NAME = r"[\w-]{1,64}"
_FILES = r"[\w.@/-]{1,200}"
READ = re.compile(
    rf"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/(assets|static|svelte)/{_FILES}"
    r"|/login|/metrics|/abq/[^/]{1,120}(/[^/]{1,120}){0,2}"
    rf"|/gradio_api/(info|heartbeat/{_NAME}|queue/data|call/{_NAME}/{_NAME})"
)
SENT = re.compile(rf"/login|/logout|/gradio_api/(queue/join|cancel|reset|call/{_NAME})")
_CLIMBS = re.compile(r"[\\\0]|(^|/)\.\.(/|$)")


def is_known(method: str, path: str) -> bool:
    """True for a request (path: percent signs decoded) that some part of the page or `gradio_client` sends."""
    if _CLIMBS.search(path):
        return False
    if method in ("GET", "HEAD"):
        return READ.fullmatch(path) is not None
    return method == "POST" and SENT.fullmatch(path) is not None


class KnownAddressesMiddleware:
    """404 for every address that is not the page's own, websockets among them.

    What follows the question mark of the page itself is for its script; the server does not look at it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if not is_known(scope["method"], scope["path"]):
            await PlainTextResponse("There is nothing at this address.", 404)(scope, receive, send)
            return
        if scope["path"] == "/":
            scope = {**scope, "query_string": b""}
        await self.app(scope, receive, send)
