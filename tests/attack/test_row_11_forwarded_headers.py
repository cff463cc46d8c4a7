"""Headers of a proxy, sent by a program on this machine although no proxy was declared."""

from collections import Counter
from collections.abc import Callable

import pytest
from account_cases import PASSWORD
from page_process import PageProcess

pytestmark = pytest.mark.attack(row=11)

GUESSES = 30


@pytest.mark.parametrize(
    "header",
    [
        ("X-Forwarded-Host", "evil.example"),
        ("X-Gradio-Server", "http://evil.example"),
        ("Forwarded", "host=evil.example;proto=https"),
        ("X-Forwarded-Proto", "https"),
    ],
    ids=lambda header: header[0],
)
def test_forged_hosts_do_not_become_the_address_of_the_page(page: PageProcess, header: tuple[str, str]) -> None:
    with page.client(source="127.0.11.2") as client:
        client.post("/login", data={"username": "ada", "password": PASSWORD})
        for path in ("/", "/config", "/gradio_api/info"):
            answer = client.get(path, headers=dict([header]))
            assert answer.status_code == 200
            assert "evil.example" not in answer.text and "https://127.0.0.1" not in answer.text
        assert client.get("/config", headers=dict([header])).json()["root"] == page.address


def test_forged_addresses_do_not_get_around_the_limit(page: PageProcess, tried: Callable[[int], None]) -> None:
    with page.client(source="127.0.11.1") as client:
        statuses = Counter(
            client.post(
                "/login",
                data={"username": "ada", "password": "wrong"},
                headers={name: f"198.51.100.{number}" for name in ("X-Forwarded-For", "X-Real-IP")},
            ).status_code
            for number in range(GUESSES)
        )
    tried(GUESSES)
    assert statuses == {401: 10, 429: GUESSES - 10}
