"""Login: the form, sessions, HTTP Basic, and who is refused."""

import asyncio
import base64
import urllib.parse
from collections.abc import Awaitable
from pathlib import Path

import httpx
import pytest
from account_cases import PASSWORD
from app_cases import settings_in
from gradio_client import Client
from gradio_client.exceptions import AuthenticationError
from served import served
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from app.services import open_services
from app.web.access import login as login_module
from app.web.access.accounts import Accounts
from app.web.access.failed_logins import (
    MAX_FAILURES_PER_ADDRESS,
    WINDOW_SECONDS,
)
from app.web.access.login import COOKIE, SESSION_SECONDS, VISITOR, LoginMiddleware

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it


class GuardedPage:
    """LoginMiddleware in front of a page that shows the visitor's name, with a manual clock."""

    def __init__(self, accounts: Accounts | None) -> None:
        self.time = 0.0
        self.address = "192.0.2.1"  # of the clients
        self.middleware = LoginMiddleware(self._page, accounts, lambda: self.time)

    @staticmethod
    async def _page(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"for {scope.get(VISITOR)}")(scope, receive, send)

    def __call__(
        self, method: str, path: str, cookies: dict[str, str] | None = None, **options: object
    ) -> httpx.Response:
        async def send_request() -> httpx.Response:
            transport = httpx.ASGITransport(self.middleware, client=(self.address, 1234))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", cookies=cookies) as client:
                return await client.request(method, path, **options)  # type: ignore[arg-type]

        answer: Awaitable[httpx.Response] = send_request()
        return asyncio.run(answer)  # type: ignore[arg-type]

    def login(self, name: str = "ada", password: str = PASSWORD, **headers: str) -> httpx.Response:
        return self("POST", "/login", data={"username": name, "password": password}, headers=headers)


@pytest.fixture
def page(accounts: Accounts) -> GuardedPage:
    return GuardedPage(accounts)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_a_browser_logs_in_with_the_form_and_logs_out(page: GuardedPage) -> None:
    assert page("GET", "/").headers["location"] == "login"
    assert page("GET", "/gradio_api/info").status_code == 401
    form = page("GET", "/login")
    assert form.status_code == 200 and 'type="password"' in form.text and "default-src 'none'" in str(form.headers)
    answer = page.login(accept="text/html")
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in (COOKIE, "HttpOnly", "SameSite=lax", "Max-Age=43200"))
    cookies = {COOKIE: answer.cookies[COOKIE]}
    assert page("GET", "/", cookies=cookies).text == "for ada"
    assert page("POST", "/logout", cookies=cookies).status_code == 303
    assert page("GET", "/", cookies=cookies).status_code == 303


def test_wrong_credentials_get_the_form_again_and_no_cookie(page: GuardedPage) -> None:
    for name, password in (("ada", "wrong"), ("eve", PASSWORD), ("", ""), ("ada", ""), ("<b>", "<script>")):
        answer = page.login(name, password, accept="text/html")
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        assert "Wrong name or password" in answer.text and "<script>" not in answer.text
    assert page("POST", "/login", content=b"x" * 5000).status_code == 413
    assert page("GET", "/", cookies={COOKIE: "made up"}).status_code == 303
    assert page("GET", "/", headers={"Cookie": "a=b; \x7f=;;"}).status_code == 303


def test_a_session_expires_and_ends_with_a_new_password(page: GuardedPage, accounts: Accounts) -> None:
    cookies = {COOKIE: page.login().cookies[COOKIE]}
    page.time = SESSION_SECONDS - 1
    assert page("GET", "/config", cookies=cookies).status_code == 200
    page.time = SESSION_SECONDS
    assert page("GET", "/config", cookies=cookies).status_code == 401
    cookies = {COOKIE: page.login().cookies[COOKIE]}
    accounts.set_password("ada", PASSWORD + " again")
    assert page("GET", "/config", cookies=cookies).status_code == 401
    cookies = {COOKIE: page.login(password=PASSWORD + " again").cookies[COOKIE]}
    accounts.path.unlink()
    assert page("GET", "/config", cookies=cookies).status_code == 503


def test_a_session_ends_when_its_account_is_removed(page: GuardedPage, accounts: Accounts) -> None:
    accounts.set_password("bob", PASSWORD)
    cookies = {COOKIE: page.login("bob").cookies[COOKIE]}
    assert page("GET", "/metrics", headers=basic("bob", PASSWORD)).text == "for bob"
    accounts.remove("bob")
    assert page("GET", "/config", cookies=cookies).status_code == 401
    assert page("GET", "/metrics", headers=basic("bob", PASSWORD)).status_code == 401


@pytest.mark.parametrize("end", ["logout", "removed", "unusable"])
@pytest.mark.parametrize("started", [True, False], ids=["in the response", "before the response"])
def test_a_response_ends_with_its_session(
    end: str, started: bool, page: GuardedPage, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that would never end, and a page that would never answer."""
    monkeypatch.setattr(login_module, "SESSION_CHECK_SECONDS", 0.01)
    cookies = {COOKIE: page.login().cookies[COOKIE]}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def never_ends(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.to_thread(end_session)
        await asyncio.Event().wait()

    def end_session() -> None:
        if end == "logout":
            assert page("POST", "/logout", cookies=cookies).status_code == 303
        elif end == "removed":
            accounts.remove("ada")
        else:
            accounts.path.unlink()

    middleware = page.middleware
    middleware.app = never_ends
    scope = {"type": "http", "method": "GET", "path": "/gradio_api/queue/data", "query_string": b""}
    scope["headers"] = [(b"cookie", f"{COOKIE}={cookies[COOKIE]}".encode())]
    asyncio.run(asyncio.wait_for(middleware(scope, None, send), 20))  # type: ignore[arg-type]
    assert [message["status"] for message in sent if "status" in message] == [200 if started else 401]


def test_an_error_of_the_page_is_not_taken_for_the_end_of_a_session(page: GuardedPage) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("of the page")

    cookies = {COOKIE: page.login().cookies[COOKIE]}
    page.middleware.app = fails
    with pytest.raises(TimeoutError, match="of the page"):
        page("GET", "/config", cookies=cookies)


def test_the_password_file_is_named_in_the_log_only(
    page: GuardedPage, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    accounts.path.chmod(0o644)
    answer = page.login()
    assert answer.status_code == 503 and str(accounts.path) not in answer.text
    assert f"chmod 600 {accounts.path}" in caplog.text


def test_failed_logins_are_counted_and_forgotten_in_time(page: GuardedPage) -> None:
    statuses = [page.login(password="wrong").status_code for _ in range(MAX_FAILURES_PER_ADDRESS)]
    assert statuses == [401] * MAX_FAILURES_PER_ADDRESS
    refused = page.login()
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) <= WINDOW_SECONDS + 1
    assert page("GET", "/metrics", headers=basic("ada", PASSWORD)).status_code == 429
    page.time = WINDOW_SECONDS + 1
    assert page.login().status_code == 200


def test_successful_logins_are_not_counted(page: GuardedPage) -> None:
    for _ in range(2 * MAX_FAILURES_PER_ADDRESS):
        assert page.login().status_code == 200


def test_guessing_does_not_lock_out_other_addresses(page: GuardedPage, accounts: Accounts) -> None:
    """Wrong logins with the same name from one address, then the right password from another address."""
    accounts.set_password("bob", PASSWORD)
    statuses = [page.login("bob", "wrong").status_code for _ in range(70)]
    assert statuses == [401] * MAX_FAILURES_PER_ADDRESS + [429] * (70 - MAX_FAILURES_PER_ADDRESS)
    assert page.login("bob").status_code == 429  # the address that guessed
    page.address = "192.0.2.2"
    assert page.login("bob").status_code == 200
    assert page("GET", "/metrics", headers=basic("bob", PASSWORD)).text == "for bob"
    assert page.login("ada").status_code == 200


def test_many_addresses_do_not_lock_out_the_owner_of_a_name(page: GuardedPage) -> None:
    for host in range(70):
        page.address = f"198.51.100.{host}"
        assert page.login(password="wrong").status_code == 401
    assert page.login(password="wrong").status_code == 429  # this name has no failures left: one try per address
    page.address = "192.0.2.1"
    assert page.login().status_code == 200


def test_simultaneous_guesses_do_not_get_past_the_limit(page: GuardedPage) -> None:
    async def guess() -> list[int]:
        transport = httpx.ASGITransport(page.middleware)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            form = {"username": "ada", "password": "wrong"}
            responses = await asyncio.gather(*(client.post("/login", data=form) for _ in range(30)))
            return [response.status_code for response in responses]

    statuses = asyncio.run(guess())
    assert sorted(statuses) == [401] * MAX_FAILURES_PER_ADDRESS + [429] * (30 - MAX_FAILURES_PER_ADDRESS)


def test_a_program_logs_in_with_http_basic(
    page: GuardedPage, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    verify = accounts.verify
    monkeypatch.setattr(accounts, "verify", lambda name, password: hashed.append(name) or verify(name, password))
    for _ in range(30):
        assert page("GET", "/metrics", headers=basic("ada", PASSWORD)).text == "for ada"
    assert hashed == ["ada"]  # once, then remembered
    assert page("GET", "/metrics", headers=basic("ada", "wrong")).status_code == 401
    for text in ("Basic", "Basic !!", "Bearer abc", "Basic /w==", "Basic " + "A" * 9000):
        assert page("GET", "/metrics", headers={"Authorization": text}).status_code == 401


def test_without_accounts_there_is_no_login() -> None:
    page = GuardedPage(None)
    assert page("GET", "/").text == "for None"
    assert page("GET", "/login").status_code == page("POST", "/logout").status_code == 404


def test_the_whole_page_is_behind_the_login(tmp_path: Path, accounts: Accounts) -> None:
    with served(open_services(settings_in(tmp_path / "data")), accounts) as address:
        for path in ("", "config", "abq/runs.csv", "abq/page.js", "theme.css", "gradio_api/info", "metrics"):
            found = httpx.get(urllib.parse.urljoin(address, path), timeout=300)
            assert found.status_code == (401 if path else 303), path
        assert httpx.post(f"{address}gradio_api/call/models", json={"data": []}).status_code == 401
        with pytest.raises(AuthenticationError):
            Client(address, verbose=False, auth=("ada", "wrong"))
        client = Client(address, verbose=False, auth=("ada", PASSWORD))
        assert client.predict(api_name="/models") == ["builtin"]
        assert httpx.get(f"{address}abq/runs.csv", auth=("ada", PASSWORD)).status_code == 200
