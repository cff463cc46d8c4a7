"""Accounts, login, sessions, and the limits of failed logins."""

import asyncio
import base64
import io
import os
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from app_cases import settings_in
from gradio_client import Client
from gradio_client.exceptions import AuthenticationError
from served import served
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.cli.main import main
from app.services import open_services
from app.web.access import accounts as accounts_module
from app.web.access.accounts import Accounts, AccountsError, hash_password, matches
from app.web.access.failed_logins import (
    MAX_FAILURES_PER_ADDRESS,
    MAX_FAILURES_PER_NAME,
    WINDOW_SECONDS,
    FailedLogins,
    network_of,
)
from app.web.access.login import COOKIE, SESSION_SECONDS, VISITOR, LoginMiddleware
from app.web.access.rates import MAX_KEYS, RateLimit

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it

PASSWORD = "correct horse battery"


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """One account, with a cheap password hash."""
    monkeypatch.setattr(accounts_module, "_COST", 1 << 4)
    made = Accounts(tmp_path / "accounts")
    made.set_password("ada", PASSWORD)
    return made


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


def test_the_file_holds_salted_hashes_and_only_its_owner_can_read_it(accounts: Accounts) -> None:
    accounts.set_password("bob", PASSWORD)
    text = accounts.path.read_text()
    assert PASSWORD not in text and accounts.path.stat().st_mode & 0o777 == 0o600
    assert accounts.names() == ["ada", "bob"] and accounts.password_hash("ada") != accounts.password_hash("bob")
    assert accounts.verify("ada", PASSWORD) and not accounts.verify("ada", PASSWORD + "!")
    assert not accounts.verify("eve", PASSWORD) and not accounts.verify("", "")
    accounts.remove("ada")
    assert accounts.names() == ["bob"] and not accounts.verify("ada", PASSWORD)
    with pytest.raises(AccountsError, match=r"no account 'ada'.*bob"):
        accounts.remove("ada")


def test_hashes_have_the_documented_cost() -> None:
    stored = hash_password(PASSWORD)
    assert stored.startswith("scrypt$32768$8$3$") and matches(PASSWORD, stored) and not matches("", stored)


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a" * 65, "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_invalid_names_are_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(AccountsError, match="is not a valid name"):
        accounts.set_password(name, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "a" * 257])
def test_passwords_that_are_too_short_or_too_long_are_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(AccountsError, match=f"has {len(password)} characters"):
        accounts.set_password("ada", password)


@pytest.mark.parametrize("text", ["ada", "ada:plain-password", "ada:scrypt$1$1$1$a$b", "\udcff"])
def test_a_file_in_another_format_is_refused(accounts: Accounts, text: str) -> None:
    accounts.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AccountsError, match=r"password file .*accounts"):
        accounts.names()


def test_a_file_that_others_can_read_is_refused(accounts: Accounts, tmp_path: Path) -> None:
    os.chmod(accounts.path, 0o644)
    with pytest.raises(AccountsError, match="chmod 600"):
        accounts.names()
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AccountsError, match=r"not a regular file|set-password"):
            Accounts(path).names()


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


def test_a_name_without_failures_left_is_refused_to_addresses_that_have_failed() -> None:
    failures = FailedLogins(lambda: 0.0)
    for host in range(MAX_FAILURES_PER_NAME):
        failures.add("ada", f"198.51.100.{host}")
    assert failures.wait("ada", "198.51.100.0") == WINDOW_SECONDS
    assert failures.wait("bob", "198.51.100.0") == failures.wait("ada", "192.0.2.1") == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_budgets_are_by_ipv4_address_and_ipv6_network(address: str, network: str) -> None:
    assert network_of(address) == network


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


def test_a_rate_limit_has_a_sliding_window_and_bounded_memory() -> None:
    time = [0.0]
    rate = RateLimit(2, 10, lambda: time[0])
    assert [rate.hit("a"), rate.hit("a"), rate.hit("a"), rate.hit("b")] == [0, 0, 10, 0]
    time[0] = 10.0
    assert rate.hit("a") == 0
    for key in range(2 * MAX_KEYS):
        rate.hit(str(key))
    assert len(rate._times) == MAX_KEYS


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    yield lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_the_command_reads_the_password_from_stdin(
    tmp_path: Path, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts_module, "_COST", 1 << 4)
    file = tmp_path / "folder" / "accounts"
    typed(PASSWORD + "\n")
    assert main(["auth", "set-password", "ada", "--file", str(file)]) == 0
    typed("short\n")
    assert main(["auth", "set-password", "bob", "--file", str(file)]) == 2
    out, err = capsys.readouterr()
    assert PASSWORD not in out + err and "5 characters" in err
    assert main(["auth", "list", "--file", str(file), "--json"]) == 0
    assert '"ada"' in capsys.readouterr().out and Accounts(file).verify("ada", PASSWORD)
    assert main(["auth", "remove", "ada", "--file", str(file)]) == 0
    capsys.readouterr()
    assert main(["app", "--host", "0.0.0.0", "--auth", str(file)]) == 2
    assert "no accounts" in capsys.readouterr().err
    assert main(["app", "--auth", str(tmp_path / "nowhere")]) == 2
    assert "set-password" in capsys.readouterr().err


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
