"""Connections without a complete request: the login page answers, the log stays short, and all are closed in time."""

import contextlib
import socket
import time
from collections.abc import Callable

import pytest
from page_process import PageProcess

pytestmark = pytest.mark.attack(row=3)

HALF_OPEN = 300  # more than the files that the process may open
HEADER_SECONDS, BODY_SECONDS = 10, 20
HEAD = b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
FORM = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nusername="


@pytest.mark.parametrize("addresses", [1, 30], ids=["one address", "many addresses"])
def test_the_login_page_answers_beside_half_open_connections(
    page: PageProcess, addresses: int, tried: Callable[[int], None]
) -> None:
    logged = page.output.stat().st_size
    with contextlib.ExitStack() as opened:
        for number in range(HALF_OPEN):
            opened.enter_context(page.connect(HEAD, f"127.0.3.{1 + number % addresses}"))
        for address in ("127.0.3.1", "127.0.3.100"):
            with page.client(source=address) as client:
                assert client.get("/login", timeout=60).status_code == 200
    tried(HALF_OPEN)
    assert page.output.stat().st_size - logged < 10_000


@pytest.mark.slow
def test_a_request_has_limited_time(page: PageProcess, tried: Callable[[int], None]) -> None:
    """Headers sent byte by byte, a connection without a byte, and a body that stops, all at the same time."""
    started = time.monotonic()
    with page.connect(HEAD) as headers, page.connect() as silent, page.connect(FORM) as body:
        headers.settimeout(0.5)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 2 * HEADER_SECONDS and not _closed(headers):
                headers.sendall(b"x")
        assert time.monotonic() - started < HEADER_SECONDS + 3
        silent.settimeout(HEADER_SECONDS)
        assert silent.recv(100) == b""
        assert time.monotonic() - started < HEADER_SECONDS + 3
        body.settimeout(BODY_SECONDS + 3)
        assert b" 408 " in body.recv(1000)
        assert time.monotonic() - started < BODY_SECONDS + 3
    tried(3)


def _closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except TimeoutError:
        return False
