"""Login: the form, sessions, HTTP Basic, and the identity of a visitor.

Without accounts there is no login.

A browser logs in with the form and gets a session cookie. A program sends name and password with every request (HTTP
Basic), or logs in like `gradio_client` with `auth=`. Failed logins are limited by address and by name.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from cachetools import TTLCache
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.figures.palette import DARK, LIGHT
from app.web.access.accounts import Accounts, AccountsError
from app.web.access.failed_logins import FailedLogins
from app.web.html import render

COOKIE = "abq_session"
SESSION_SECONDS = 12 * 3600.0
SESSION_CHECK_SECONDS = 2.0  # how often a response that takes long is checked against its session
MAX_SESSIONS = 1000
MAX_FORM_BYTES = 4096
MAX_NAME_LENGTH = 64
VISITOR = "abq.visitor"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """Key, name of the account, and its password hash at login: another hash ends the session."""

    key: bytes
    name: str
    password_hash: str


class LoginMiddleware:
    """Pass on requests of logged-in visitors, or all requests if there are no accounts.

    Sessions are kept on the server, by a digest of their random token, and end after SESSION_SECONDS, at logout, when
    the account is removed or changes its password, and when the program stops. A response that is still being sent then
    is cut off within SESSION_CHECK_SECONDS.
    """

    def __init__(self, app: ASGIApp, accounts: Accounts | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.accounts = app, accounts
        self._sessions: TTLCache[bytes, Session] = TTLCache(MAX_SESSIONS, SESSION_SECONDS, timer=clock)
        self._failures = FailedLogins(clock)
        self._one_at_a_time = asyncio.Lock()  # hashing a password takes 32 MiB
        self._basic_key = secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request here, or pass it on with the account's name as scope[VISITOR]."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            found = await self._respond(request)
        except AccountsError as error:  # the password file became unusable while the page runs: refuse every request
            found = _unusable(error)
        if isinstance(found, Session):
            await self._pass_on(found, request, send)
        else:
            await (self.app if found is None else found)(scope, receive, send)

    async def _respond(self, request: Request) -> Response | Session | None:
        """The visitor's session; a response if there is none; None if there are no accounts."""
        path, accounts = request.scope["path"], self.accounts
        if accounts is None:
            return PlainTextResponse("Not found.", 404) if path in ("/login", "/logout") else None
        if path == "/login":
            return await self._log_in(accounts, request) if request.method == "POST" else _login_page("")
        if path == "/logout":
            return self._log_out(request)
        session = self._session(_digest(request.cookies.get(COOKIE, ""))) or await self._basic(accounts, request)
        if session is None:
            opens_page = path == "/" and request.method in ("GET", "HEAD")
            return RedirectResponse("login", 303) if opens_page else _log_in_first(request)
        return session

    async def _pass_on(self, session: Session, request: Request, send: Send) -> None:
        """Pass on a request, with the account's name as scope[VISITOR], until its session ends."""
        loop, started = asyncio.get_running_loop(), False
        request.scope[VISITOR] = session.name

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        def check() -> None:
            nonlocal timer
            if self._is_open(session):
                timer = loop.call_later(SESSION_CHECK_SECONDS, check)
            else:
                limit.reschedule(loop.time())

        timer = loop.call_later(SESSION_CHECK_SECONDS, check)
        try:
            async with asyncio.timeout(None) as limit:
                try:
                    await self.app(request.scope, request.receive, noted)
                finally:
                    timer.cancel()
        except TimeoutError:
            if not limit.expired():
                raise
        if limit.expired() and not started:
            await _log_in_first(request)(request.scope, request.receive, send)

    async def _log_in(self, accounts: Accounts, request: Request) -> Response:
        """Read the form, and start a session if the password is right."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                return _refusal(request, "The name or the password is too long.", 413)
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=8)
        name, password = (form.get(field, [""])[0] for field in ("username", "password"))
        if refusal := await self._check_password(accounts, request, name, password):
            return refusal
        token = secrets.token_urlsafe(32)
        self._start_session(accounts, _digest(token), name)
        response = RedirectResponse("./", 303) if _is_browser(request) else JSONResponse({"success": True})
        response.set_cookie(
            COOKIE, token, max_age=int(SESSION_SECONDS), httponly=True, samesite="lax",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    def _log_out(self, request: Request) -> Response:
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)
        response = RedirectResponse("login", 303)
        response.delete_cookie(COOKIE)
        return response

    def _start_session(self, accounts: Accounts, key: bytes, name: str) -> Session:
        session = self._sessions[key] = Session(key, name, accounts.password_hash(name) or "")
        return session

    def _session(self, key: bytes) -> Session | None:
        """The session of a key, unless it has expired or the account's password has changed."""
        session, accounts = self._sessions.get(key), self.accounts
        valid = session and accounts and accounts.password_hash(session.name) == session.password_hash
        return session if valid else None

    def _is_open(self, session: Session) -> bool:
        try:
            return self._session(session.key) is session
        except AccountsError:
            return False

    async def _basic(self, accounts: Accounts, request: Request) -> Session | Response | None:
        """The session of the Authorization header; None without a header.

        A wrong password returns a refusal.
        """
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic" or len(encoded) > MAX_FORM_BYTES:
            return None
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        # A session remembers verified credentials: the slow password hash is computed once, not for every request.
        key = hmac.digest(self._basic_key, f"{name}:{password}".encode(), "sha256")
        if session := self._session(key):
            return session
        refusal = await self._check_password(accounts, request, name, password)
        return refusal or self._start_session(accounts, key, name)

    async def _check_password(self, accounts: Accounts, request: Request, name: str, password: str) -> Response | None:
        """None for the right password, otherwise a refusal. Only failures are counted."""
        name, address = name[: MAX_NAME_LENGTH + 1], request.client.host if request.client else ""
        async with self._one_at_a_time:  # holds for the budgets too: simultaneous guesses do not get past them
            if wait := self._failures.wait(name, address):
                seconds = int(wait) + 1
                return _refusal(
                    request, f"Too many failed logins. Try again in {seconds} seconds.", 429,
                    {"Retry-After": str(seconds)},
                )  # fmt: skip
            if await run_in_threadpool(accounts.verify, name, password):
                return None
            self._failures.add(name, address)
        return _refusal(request, "Wrong name or password.", 401)


def visitor_of(request: gr.Request | None) -> str:
    """The visitor's account name, or the address if there is no login; "unknown" without either."""
    inner: Any = getattr(request, "request", None)
    if inner is None:
        return "unknown"
    client = inner.scope.get("client")
    return str(inner.scope.get(VISITOR) or (client[0] if client else "unknown"))


def account_of(request: Any) -> str | None:
    """The visitor's account name, None without a login. request: Gradio's or Starlette's."""
    name = getattr(request, "request", request).scope.get(VISITOR)
    return None if name is None else str(name)


def _digest(token: str) -> bytes:
    """The key of a session, a digest of its token.

    A lookup by digest reveals nothing about stored tokens through its timing.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _unusable(error: AccountsError) -> Response:
    """The answer while the password file cannot be used. Only the log says which file, and why."""
    logger.error("Login is not possible: %s", error)
    return PlainTextResponse("Login is not possible at the moment. The log of the server says why.", 503)


def _log_in_first(request: Request) -> Response:
    return _refusal(request, "Log in first.", 401)


def _refusal(request: Request, message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    if request.scope["path"] == "/login" and _is_browser(request):
        return _login_page(message, status, headers)
    return PlainTextResponse(message, status, {"Cache-Control": "no-store", **(headers or {})})


def _login_page(message: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    page = render("login.html", message=message, light=LIGHT, dark=DARK)
    return HTMLResponse(page, status, {**_HEADERS, **(headers or {})})
