"""Requests that the page does not send: from other sites, to other host names, to closed paths, or too large.

The tests read all routes from the application, so that they cover routes that a new version of Gradio adds.
"""

import asyncio
import contextlib
import http.client
import io
import json
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from app_cases import settings_in
from gradio_client import Client
from served import served
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from app.services import Services, open_services
from app.web.access.forwarded import ForwardedMiddleware
from app.web.access.paths import is_known
from app.web.access.security import MAX_BODY_BYTES, BodyLimitMiddleware, allowed_hosts, middleware
from app.web.dashboard import web_application

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it

FOREIGN = [
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Host": "evil.example"}, 400),
    ({"Host": "127.0.0.1.evil.example"}, 400),
    ({"Host": ""}, 400),
]
PARAMETERS = {"api_name": "cancel", "event_id": "e", "session_hash": "s", "component_id": "1", "run": "1"}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    return open_services(settings_in(tmp_path_factory.mktemp("requests")))


@pytest.fixture(scope="module")
def calls(services: Services) -> list[str]:
    """Names of the service methods that requests have called."""
    called: list[str] = []

    def record(service: object, name: str) -> None:
        method = getattr(service, name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return method(*args, **kwargs)

        setattr(service, name, recorded)

    record(services.models, "names")
    for name in ("submit", "cancel", "resume"):
        record(services.jobs, name)
    for name in ("delete", "set_note", "frame", "newest_frame"):
        record(services.runs, name)
    return called


@pytest.fixture(scope="module")
def host(services: Services) -> Iterator[str]:
    with served(services) as address:
        yield urllib.parse.urlsplit(address).netloc


@pytest.fixture(scope="module")
def routes(services: Services, host: str) -> list[tuple[str, str]]:
    """(method, path) of every route of the application, including mounted applications."""
    assert ask(host, "GET", "/")[0] == 200  # Gradio cannot build two pages at the same time

    async def build() -> Any:  # Gradio creates event loops and does not close them if none is running
        return web_application(services)

    found = sorted(set(_routes(asyncio.run(build()))))
    assert ("POST", "/gradio_api/queue/join") in found and ("POST", "/gradio_api/upload") in found
    return found


def _routes(application: Any) -> Iterator[tuple[str, str]]:
    for route in application.routes:
        inner = getattr(route, "app", None) or getattr(route, "original_router", None)
        if hasattr(inner, "routes"):
            yield from _routes(inner)
        else:
            path = route.path
            for name, value in PARAMETERS.items():
                path = path.replace(f"{{{name}}}", value)
            yield from ((method, path) for method in route.methods or ())


def ask(host: str, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of the response to exactly these headers. At most 4 KiB are read."""
    connection = http.client.HTTPConnection(host, timeout=300)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(4096)


def test_requests_of_other_sites_are_refused_before_a_callback_runs(
    host: str, routes: list[tuple[str, str]], calls: list[str], record_property: Callable[..., None]
) -> None:
    posts = [path for method, path in routes if method == "POST"]
    assert len(posts) > 15
    bodies = [json.dumps({"data": [], "fn_index": n, "session_hash": "s", "event_id": "e"}).encode() for n in (0, 60)]
    calls.clear()
    assert ask(host, "POST", "/gradio_api/call/models", b'{"data": []}')[0] == 200
    deadline = time.monotonic() + 60
    while "names" not in calls:  # the response comes before the callback runs
        assert time.monotonic() < deadline
        time.sleep(0.05)
    calls.clear()
    paths = [*posts, "/gradio_api/call/models", "/gradio_api/call/runs", "/gradio_api/queue/join?tab=explore"]
    for path in paths:
        for headers, status in FOREIGN:
            for body in bodies:
                assert ask(host, "POST", path, body, **headers)[0] == status, (path, headers)
    assert calls == []
    record_property("requests of other sites refused", len(paths) * len(FOREIGN) * len(bodies))


def test_other_sites_cannot_read_anything(
    host: str, routes: list[tuple[str, str]], calls: list[str], record_property: Callable[..., None]
) -> None:
    calls.clear()
    paths = [*(path for method, path in routes if method == "GET" and path != "/"), "/abq/runs.csv"]
    for path in paths:
        for headers, status in FOREIGN:
            assert ask(host, "GET", path, **headers)[0] == status, (path, headers)
    assert calls == []
    assert ask(host, "GET", "/", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 200  # a link
    assert ask(host, "GET", "/", **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})[0] == 403
    record_property("requests of other sites refused", len(paths) * len(FOREIGN))


def test_only_the_paths_of_the_page_are_open(host: str, routes: list[tuple[str, str]]) -> None:
    closed = [(method, path) for method, path in routes if not is_known(method, path)]
    for needed in ("/gradio_api/upload", "/gradio_api/run/cancel", "/gradio_api/api/cancel", "/gradio_api/reset/"):
        assert ("POST", needed) in closed
    for needed in ("/monitoring", "/gradio_api/runs", "/gradio_api/deep_link", "/gradio_api/openapi.json"):
        assert ("GET", needed) in closed
    for method, path in closed:
        assert ask(host, method, path)[0] == 404, (method, path)
    for path in ("/", "/config", "/theme.css", "/gradio_api/info", "/abq/page.js"):
        assert ask(host, "GET", path)[0] == 200
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert ask(host, method, "/gradio_api/call/models")[0] == 404


def test_the_query_string_does_not_change_the_page(host: str) -> None:
    for query in ("deep_link=../../x", "view=api", "__theme=dark", "deep_link=" + "a" * 5000):
        assert ask(host, "GET", f"/?{query}") == ask(host, "GET", "/")


def test_bodies_are_counted_and_never_decompressed(host: str) -> None:
    megabytes = b"x" * (50 << 20)
    connection = http.client.HTTPConnection(host)
    with contextlib.closing(connection):
        chunks = (megabytes[i : i + 65536] for i in range(0, len(megabytes), 65536))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server closes the connection early
            connection.request("POST", "/gradio_api/call/models", chunks, encode_chunked=True)
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
            assert connection.getresponse().status == 413
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros", bytes(500 << 20))
    packed = archive.getvalue()
    assert len(packed) < MAX_BODY_BYTES
    for encoding in ("gzip", "deflate", "identity"):
        assert ask(host, "POST", "/gradio_api/upload", packed, **{"Content-Encoding": encoding})[0] == 404
        answer = ask(host, "POST", "/gradio_api/call/models", packed, **{"Content-Encoding": encoding})
        assert answer[0] in (400, 422), answer


@pytest.mark.parametrize("started", [True, False], ids=["in the response", "before the response"])
def test_a_body_that_arrives_too_slowly_is_refused(started: bool) -> None:
    """The page reads the body, and would report the error itself; the rest of the body never arrives."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def first_part() -> Message:
        if received:
            await asyncio.Event().wait()
        received.append(True)
        return {"type": "http.request", "body": b"first", "more_body": True}

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await receive()
            await receive()
        except Exception:
            await PlainTextResponse("There was an error parsing the body", 400)(scope, receive, send)

    received: list[bool] = []
    scope = {"type": "http", "headers": []}
    asyncio.run(BodyLimitMiddleware(page, limit=10, seconds=0.01)(scope, first_part, send))
    statuses = [message["status"] for message in sent if message["type"] == "http.response.start"]
    assert statuses[0] == (200 if started else 408)
    assert started or (b"connection", b"close") in sent[0]["headers"]


def test_a_client_that_leaves_within_its_body_is_no_error() -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "headers": []}
    asyncio.run(BodyLimitMiddleware(page, limit=10, seconds=1)(scope, leave, None))  # type: ignore[arg-type]


def test_gradio_client_works(host: str) -> None:
    client = Client(f"http://{host}/", verbose=False)
    assert client.predict(api_name="/models") == ["builtin"]


def test_allowed_host_names() -> None:
    assert {"127.0.0.1", "localhost", "box.example"} <= set(allowed_hosts("box.example"))
    assert "127.0.0.1" in allowed_hosts("0.0.0.0") and "0.0.0.0" not in allowed_hosts("0.0.0.0")
    assert [one.cls for one in middleware()[:2]] == [ForwardedMiddleware, TrustedHostMiddleware]
