"""The door: a login page, sessions, and who the visitor is. Without accounts it is open, and there is nothing to log in
to.

A browser logs in with a form and keeps a cookie; a program sends name and password with every request (HTTP Basic), or
logs in as `gradio_client`'s `auth=` does. Wrong passwords are counted for each name, each address and all together.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.access.accounts import Accounts, AccountsError
from app.web.access.rates import Rate

COOKIE = "abq_session"
SESSION_SECONDS = 12 * 3600.0
MOST_SESSIONS = 1000
MAX_FORM_BYTES = 4096
TRIES_OF_A_NAME, TRIES_OF_AN_ADDRESS, TRIES_OF_ALL = 10, 10, 60
TRY_SECONDS = 300.0
VISITOR = "abq.visitor"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'",
}
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ABQ Explorer: log in</title>
<meta name="viewport" content="width=device-width"><style>
body{{font:16px/1.5 system-ui,sans-serif;margin:20vh auto;max-width:20rem;padding:0 1rem;color-scheme:light dark}}
label,input,button{{display:block;width:100%;box-sizing:border-box}}input,button{{margin:.2rem 0 1rem;padding:.5rem;
font:inherit}}[role=alert]{{color:#dc2626}}</style></head><body><h1>ABQ Explorer</h1>{said}
<form method="post" action="login"><label for="username">Name</label>
<input id="username" name="username" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button></form></body></html>"""


@dataclass(frozen=True)
class Session:
    """Who logged in, with which stored password, and until when."""

    name: str
    stored: str
    ends: float


class LoginMiddleware:
    """Lets through who has logged in, and everybody where there are no accounts."""

    def __init__(self, app: ASGIApp, accounts: Accounts | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.accounts, self._clock = app, accounts, clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._tries = {
            "name": Rate(TRIES_OF_A_NAME, TRY_SECONDS, clock),
            "address": Rate(TRIES_OF_AN_ADDRESS, TRY_SECONDS, clock),
            "all": Rate(TRIES_OF_ALL, TRY_SECONDS, clock),
        }
        self._one_at_a_time = asyncio.Lock()  # a guess takes 32 MiB
        self._key = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            response = await self._answer(scope, receive)
        except AccountsError as error:  # the file was spoilt while the page is up: nobody gets in
            response = PlainTextResponse(f"Nobody can log in: {error}", 503)
        await (self.app if response is None else response)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """What stands in the way of this request; None: nothing, and the scope says who it is."""
        path, accounts = scope["path"], self.accounts
        if accounts is None:
            return (
                PlainTextResponse("There is nothing at this address.", 404) if path in ("/login", "/logout") else None
            )
        request = Request(scope, receive)
        if path == "/login":
            return await self._login(accounts, request) if request.method == "POST" else _page("")
        session = self._session_of(accounts, scope)
        if path == "/logout":
            return self._logout(request)
        name = session.name if session else await self._basic(accounts, request)
        if isinstance(name, Response):
            return name
        if name is None:
            asked_for_a_page = path == "/" and request.method in ("GET", "HEAD")
            return RedirectResponse("login", 303) if asked_for_a_page else _refused(request, "Log in first.", 401)
        scope[VISITOR] = name
        return None

    async def _login(self, accounts: Accounts, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                return _refused(request, "Name and password are too long.", 413)
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=8)
        name, password = (form.get(field, [""])[0] for field in ("username", "password"))
        if refusal := await self._check(accounts, request, name, password):
            return refusal
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = Session(name, accounts.stored(name) or "", self._clock() + SESSION_SECONDS)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        response = RedirectResponse("./", 303) if _is_browser(request) else JSONResponse({"success": True})
        response.set_cookie(
            COOKIE, token, max_age=int(SESSION_SECONDS), httponly=True, samesite="lax",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    def _logout(self, request: Request) -> Response:
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)
        response = RedirectResponse("login", 303)
        response.delete_cookie(COOKIE)
        return response

    def _session_of(self, accounts: Accounts, scope: Scope) -> Session | None:
        """The session that the cookie names, while it lasts and the account has the password it had then."""
        try:
            cookie = SimpleCookie(Headers(scope=scope).get("cookie", "")).get(COOKIE)
        except CookieError:
            return None
        session = self._sessions.get(_digest(cookie.value)) if cookie else None
        if session is None or session.ends <= self._clock() or accounts.stored(session.name) != session.stored:
            return None
        return session

    async def _basic(self, accounts: Accounts, request: Request) -> str | Response | None:
        """The name in an Authorization header whose password is right, a refusal where it is not, None without one."""
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic" or len(text) > MAX_FORM_BYTES:
            return None
        try:
            name, _, password = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        known = hmac.digest(self._key, f"{name}:{password}".encode(), "sha256")  # scrypt once, not in every request
        session = self._sessions.get(known)
        if session is None or session.ends <= self._clock() or accounts.stored(name) != session.stored:
            if refusal := await self._check(accounts, request, name, password):
                return refusal
            self._sessions[known] = Session(name, accounts.stored(name) or "", self._clock() + SESSION_SECONDS)
        return name

    async def _check(self, accounts: Accounts, request: Request, name: str, password: str) -> Response | None:
        """None for the right password, else a refusal. Every try counts, the right ones too."""
        address = request.client.host if request.client else ""
        keys = {"name": name[:64], "address": address, "all": ""}
        wait = max([self._tries[kind].take(key) for kind, key in keys.items()])
        if wait > 0:
            return _refused(
                request, f"Too many tries. Wait {int(wait) + 1} seconds.", 429, {"Retry-After": str(int(wait) + 1)}
            )
        async with self._one_at_a_time:
            right = await run_in_threadpool(accounts.verify, name, password)
        return None if right else _refused(request, "This name and password do not belong together.", 401)


def visitor_of(request: gr.Request | None) -> str:
    """Who asks: the account's name, or else the address; one name where neither is known."""
    inner: Any = getattr(request, "request", None)
    if inner is None:
        return "unknown"
    client = inner.scope.get("client")
    return str(inner.scope.get(VISITOR) or (client[0] if client else "unknown"))


def _digest(token: str) -> bytes:
    """What is kept of a cookie: looking it up by its hash tells nothing by its time."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _refused(request: Request, said: str, status: int, headers: dict[str, str] | None = None) -> Response:
    if request.url.path == "/login" and _is_browser(request):
        return _page(said, status, headers)
    return PlainTextResponse(said, status, {"Cache-Control": "no-store", **(headers or {})})


def _page(said: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    shown = f'<p role="alert">{escape(said)}</p>' if said else ""
    return HTMLResponse(_PAGE.format(said=shown), status, {**_HEADERS, **(headers or {})})
