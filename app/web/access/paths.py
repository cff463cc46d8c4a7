"""Allow-list of the page's URL paths. All other routes of Gradio are closed.

The page uses no uploads, files by path, streams, proxies, saved states or monitoring, so their routes cannot be abused.
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
URL_OF_TEXTS = "/abq/texts/"  # and a name: a visitor adds a text
SENT = re.compile(rf"/login|/logout|{URL_OF_TEXTS}[^/]{{1,120}}|/gradio_api/(queue/join|cancel|reset|call/{_NAME})")
_TRAVERSAL = re.compile(r"[\\\0]|(^|/)\.\.(/|$)")


def is_known(method: str, path: str) -> bool:
    """True for a request that the page or `gradio_client` sends. path: percent-decoded."""
    if _TRAVERSAL.search(path):
        return False
    if method in ("GET", "HEAD"):
        return READ.fullmatch(path) is not None
    return method == "POST" and SENT.fullmatch(path) is not None


class KnownPathsMiddleware:
    """404 for every path that the page does not use; websockets are closed.

    The query string of the page itself is read by its script in the browser; the server removes it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if not is_known(scope["method"], scope["path"]):
            await PlainTextResponse("Not found.", 404)(scope, receive, send)
            return
        if scope["path"] == "/":
            scope = {**scope, "query_string": b""}
        await self.app(scope, receive, send)
