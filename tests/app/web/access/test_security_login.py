"""Accounts and the door: what is kept of a password, who gets in, who is sent away, and how often one may try."""

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
from app.services import Explorer
from app.web.access import accounts as accounts_module
from app.web.access.accounts import Accounts, AccountsError, hash_password, matches
from app.web.access.login import COOKIE, SESSION_SECONDS, TRIES_OF_A_NAME, TRY_SECONDS, VISITOR, LoginMiddleware
from app.web.access.rates import MOST_KEYS, Rate

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it

PASSWORD = "correct horse battery"


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """One account, with a cost that tests can afford."""
    monkeypatch.setattr(accounts_module, "_COST", 1 << 4)
    made = Accounts(tmp_path / "accounts")
    made.set_password("ada", PASSWORD)
    return made


class Door:
    """The middleware before a page that says who it is for, with a clock of its own."""

    def __init__(self, accounts: Accounts | None) -> None:
        self.time = 0.0
        self.middleware = LoginMiddleware(self._page, accounts, lambda: self.time)

    @staticmethod
    async def _page(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"for {scope.get(VISITOR)}")(scope, receive, send)

    def __call__(
        self, method: str, path: str, cookies: dict[str, str] | None = None, **options: object
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.middleware)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", cookies=cookies) as client:
                return await client.request(method, path, **options)  # type: ignore[arg-type]

        answer: Awaitable[httpx.Response] = ask()
        return asyncio.run(answer)  # type: ignore[arg-type]

    def login(self, name: str = "ada", password: str = PASSWORD, **headers: str) -> httpx.Response:
        return self("POST", "/login", data={"username": name, "password": password}, headers=headers)


@pytest.fixture
def door(accounts: Accounts) -> Door:
    return Door(accounts)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_a_file_keeps_a_salted_hash_and_is_the_owners_alone(accounts: Accounts) -> None:
    accounts.set_password("bob", PASSWORD)
    text = accounts.path.read_text()
    assert PASSWORD not in text and accounts.path.stat().st_mode & 0o777 == 0o600
    assert accounts.names() == ["ada", "bob"] and accounts.stored("ada") != accounts.stored("bob")
    assert accounts.verify("ada", PASSWORD) and not accounts.verify("ada", PASSWORD + "!")
    assert not accounts.verify("eve", PASSWORD) and not accounts.verify("", "")
    accounts.remove("ada")
    assert accounts.names() == ["bob"] and not accounts.verify("ada", PASSWORD)
    with pytest.raises(AccountsError, match=r"no account 'ada'.*bob"):
        accounts.remove("ada")


def test_the_cost_of_a_guess_is_what_the_file_says() -> None:
    stored = hash_password(PASSWORD)
    assert stored.startswith("scrypt$32768$8$3$") and matches(PASSWORD, stored) and not matches("", stored)


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a" * 65, "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_names_that_do_not_fit_into_a_line_are_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(AccountsError, match="is no name"):
        accounts.set_password(name, PASSWORD)


@pytest.mark.parametrize("password", ["", "short", "a" * 257])
def test_passwords_of_no_use_are_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(AccountsError, match=f"has {len(password)} characters"):
        accounts.set_password("ada", password)


@pytest.mark.parametrize("text", ["ada", "ada:plain-password", "ada:scrypt$1$1$1$a$b", "\udcff"])
def test_a_file_of_another_kind_is_named(accounts: Accounts, text: str) -> None:
    accounts.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AccountsError, match=r"password file .*accounts"):
        accounts.names()


def test_a_file_that_others_can_read_is_not_used(accounts: Accounts, tmp_path: Path) -> None:
    os.chmod(accounts.path, 0o644)
    with pytest.raises(AccountsError, match="chmod 600"):
        accounts.names()
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AccountsError, match=r"no plain file|set-password"):
            Accounts(path).names()


def test_a_browser_is_led_to_the_form_and_back(door: Door) -> None:
    assert door("GET", "/").headers["location"] == "login"
    assert door("GET", "/gradio_api/info").status_code == 401
    form = door("GET", "/login")
    assert form.status_code == 200 and 'type="password"' in form.text and "default-src 'none'" in str(form.headers)
    answer = door.login(accept="text/html")
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    kept = answer.headers["set-cookie"]
    assert all(word in kept for word in (COOKIE, "HttpOnly", "SameSite=lax", "Max-Age=43200"))
    cookies = {COOKIE: answer.cookies[COOKIE]}
    assert door("GET", "/", cookies=cookies).text == "for ada"
    assert door("POST", "/logout", cookies=cookies).status_code == 303
    assert door("GET", "/", cookies=cookies).status_code == 303


def test_wrong_words_get_the_form_again_and_no_cookie(door: Door) -> None:
    for name, password in (("ada", "wrong"), ("eve", PASSWORD), ("", ""), ("ada", ""), ("<b>", "<script>")):
        answer = door.login(name, password, accept="text/html")
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        assert "do not belong together" in answer.text and "<script>" not in answer.text
    assert door("POST", "/login", content=b"x" * 5000).status_code == 413
    assert door("GET", "/", cookies={COOKIE: "made up"}).status_code == 303
    assert door("GET", "/", headers={"Cookie": "a=b; \x7f=;;"}).status_code == 303


def test_a_session_ends_by_itself_and_with_its_account(door: Door, accounts: Accounts) -> None:
    cookies = {COOKIE: door.login().cookies[COOKIE]}
    door.time = SESSION_SECONDS - 1
    assert door("GET", "/config", cookies=cookies).status_code == 200
    door.time = SESSION_SECONDS
    assert door("GET", "/config", cookies=cookies).status_code == 401
    cookies = {COOKIE: door.login().cookies[COOKIE]}
    accounts.set_password("ada", PASSWORD + " again")
    assert door("GET", "/config", cookies=cookies).status_code == 401
    cookies = {COOKIE: door.login(password=PASSWORD + " again").cookies[COOKIE]}
    accounts.path.unlink()
    assert door("GET", "/config", cookies=cookies).status_code == 503


def test_tries_are_counted_and_forgotten_in_time(door: Door) -> None:
    assert [door.login(password="wrong").status_code for _ in range(TRIES_OF_A_NAME)] == [401] * TRIES_OF_A_NAME
    refused = door.login()
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) <= TRY_SECONDS + 1
    assert door("GET", "/metrics", headers=basic("ada", PASSWORD)).status_code == 429
    door.time = TRY_SECONDS + 1
    assert door.login().status_code == 200


def test_a_program_sends_name_and_password(door: Door, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    verify = accounts.verify
    monkeypatch.setattr(accounts, "verify", lambda name, password: asked.append(name) or verify(name, password))
    for _ in range(30):
        assert door("GET", "/metrics", headers=basic("ada", PASSWORD)).text == "for ada"
    assert asked == ["ada"]  # hashed once, remembered then
    assert door("GET", "/metrics", headers=basic("ada", "wrong")).status_code == 401
    for text in ("Basic", "Basic !!", "Bearer abc", "Basic /w==", "Basic " + "A" * 9000):
        assert door("GET", "/metrics", headers={"Authorization": text}).status_code == 401


def test_without_accounts_there_is_no_door() -> None:
    door = Door(None)
    assert door("GET", "/").text == "for None"
    assert door("GET", "/login").status_code == door("POST", "/logout").status_code == 404


def test_a_rate_forgets_and_is_bounded() -> None:
    time = [0.0]
    rate = Rate(2, 10, lambda: time[0])
    assert [rate.take("a"), rate.take("a"), rate.take("a"), rate.take("b")] == [0, 0, 10, 0]
    time[0] = 10.0
    assert rate.take("a") == 0
    for key in range(2 * MOST_KEYS):
        rate.take(str(key))
    assert len(rate._times) == MOST_KEYS


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


def test_the_whole_page_is_behind_the_door(tmp_path: Path, accounts: Accounts) -> None:
    with served(Explorer.open(settings_in(tmp_path / "data")), accounts) as address:
        for path in ("", "config", "abq/runs.csv", "abq/page.js", "theme.css", "gradio_api/info", "metrics"):
            found = httpx.get(urllib.parse.urljoin(address, path), timeout=300)
            assert found.status_code == (401 if path else 303), path
        assert httpx.post(f"{address}gradio_api/call/models", json={"data": []}).status_code == 401
        with pytest.raises(AuthenticationError):
            Client(address, verbose=False, auth=("ada", "wrong"))
        client = Client(address, verbose=False, auth=("ada", PASSWORD))
        assert client.predict(api_name="/models") == ["builtin"]
        assert httpx.get(f"{address}abq/runs.csv", auth=("ada", PASSWORD)).status_code == 200
