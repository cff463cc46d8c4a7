"""A removed account is disconnected; without a login no path of this machine is shown."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from account_cases import PASSWORD, write_accounts
from page_process import PageProcess

pytestmark = pytest.mark.attack(row=18)

CLOSED_WITHIN_SECONDS = 30


def test_the_stream_of_a_removed_account_is_closed(page: PageProcess, accounts: Path) -> None:
    write_accounts(accounts, "ada", "bob", "eve")
    with page.client() as client:
        assert client.post("/login", data={"username": "eve", "password": PASSWORD}).status_code == 200
        with client.stream("GET", "/gradio_api/heartbeat/abc") as stream:
            parts = stream.iter_raw()
            assert stream.status_code == 200 and next(parts)
            write_accounts(accounts, "ada", "bob")
            started = time.monotonic()
            try:
                for _ in parts:
                    pass
            except httpx.RemoteProtocolError:  # the response was cut off
                pass
            assert time.monotonic() - started < CLOSED_WITHIN_SECONDS
        assert client.get("/config").status_code == 401


def test_a_password_file_that_others_can_read_is_named_in_the_log_only(
    page: PageProcess, accounts: Path, tried: Callable[[int], None]
) -> None:
    logged = page.output.stat().st_size
    form = {"username": "ada", "password": PASSWORD}
    with page.client(source="127.0.18.1") as client, page.client(source="127.0.18.1") as stranger:
        assert client.post("/login", data=form).status_code == 200
        accounts.chmod(0o644)
        try:
            answers = [client.get(path) for path in ("/", "/config", "/gradio_api/info", "/metrics")]
            answers += [stranger.post("/login", data=form), stranger.get("/metrics", auth=("ada", PASSWORD))]
            without_login = [stranger.get(path) for path in ("/", "/config", "/login")]
        finally:
            accounts.chmod(0o600)
    tried(len(answers) + len(without_login))
    assert [answer.status_code for answer in answers] == [503] * len(answers)
    assert [answer.status_code for answer in without_login] == [303, 401, 200]
    for answer in (*answers, *without_login):
        assert str(accounts.parent) not in answer.text and "chmod" not in answer.text
    assert f"chmod 600 {accounts}".encode() in page.output.read_bytes()[logged:]
