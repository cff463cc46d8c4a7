"""Row 13: wrong types, malformed requests and unknown routes end in tracebacks, 500 or an empty error."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import ValidationError
from page_process import PageProcess, page_process

pytestmark = pytest.mark.attack(row=13)

WRONG: list[Any] = [None, True, 1.5, "text", [], {}, [None], {"a": 1}, -(10**30), "\ud800", [["x"]], float("nan")]
RIGHT: dict[str, list[Any]] = {
    "models": [],
    "explore": ["builtin", "W2A8"],
    "allocate": ["builtin", 3.0, ["W2A8"]],
    "submit": ["builtin", "W4A4", "rtn", "builtin", 2, 32, -1, 0],
    "jobs": [],
    "job": ["r-0123456789"],
    "cancel": ["r-0123456789"],
    "resume": ["r-0123456789"],
    "runs": [],
    "diagnostics": ["r-0123456789", "blocks"],
    "note": ["r-0123456789", "text"],
    "delete": ["r-0123456789"],
    "evaluate": ["builtin", "builtin", 2, 32],
    "generate": [["full"], "def", 4, 0.0, 0, "builtin"],
    "throughput": [],
    "bench": [["W2A8"], ["64x64"], [1], 1],
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    with page_process(tmp_path_factory.mktemp("types") / "data") as page:
        yield page


@pytest.fixture
def client(page: PageProcess) -> Iterator[httpx.Client]:
    """A client; after the test the page has logged no traceback."""
    with page.client() as client:
        yield client
    assert "Traceback" not in page.output.read_text("utf-8", "replace")


def post(client: httpx.Client, path: str, content: object) -> httpx.Response:
    return client.post(path, content=json.dumps(content), headers={"Content-Type": "application/json"})


def fits(value: Any, right: Any) -> bool:
    """True if a wrong value has the type of the right one after all."""
    if isinstance(right, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if isinstance(right, list):
        return isinstance(value, list) and all(type(one) is type(right[0]) for one in value)
    return type(value) is type(right) and value not in ("\ud800", -(10**30))


def test_every_argument_of_a_wrong_type_is_answered_with_422_and_a_sentence(
    client: httpx.Client, tried: Callable[[int], None]
) -> None:
    calls = 0
    for endpoint, right in RIGHT.items():
        for position in range(len(right)):
            for value in WRONG:
                if fits(value, right[position]):
                    continue
                sent = [*right[:position], value, *right[position + 1 :]]
                answer = post(client, f"/gradio_api/call/{endpoint}", {"data": sent})
                assert answer.status_code == 422, (endpoint, position, value, answer.text)
                assert answer.json()["error"].startswith(f"{endpoint}: ") and answer.json()["error"].endswith(".")
                calls += 1
        for sent in ([*right, 1], right[:-1] if right else [None]):
            assert post(client, f"/gradio_api/call/{endpoint}", {"data": sent}).status_code == 422
    tried(calls)
    assert calls > 300


@pytest.mark.parametrize("path", ["call/models", "queue/join", "cancel", "reset"])
def test_a_malformed_body_is_answered_with_422(client: httpx.Client, path: str) -> None:
    bodies = [b"", b"{", b"[]", b"null", b'{"data": 1}', b'{"data": [], "session_hash": 5, "fn_index": "x"}', b"\xff"]
    for body in [*bodies, b'{"data": [' + b"9" * 5000 + b"]}", b"[" * 100_000]:
        answer = client.post(f"/gradio_api/{path}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422 and answer.json()["error"].endswith("."), (body[:50], answer.text)


def test_unknown_functions_routes_and_sessions_are_no_server_errors(client: httpx.Client) -> None:
    body = {"data": [], "session_hash": "s"}
    assert post(client, "/gradio_api/call/nosuch", body).status_code == 404
    for number in (99_999, -1):
        assert post(client, "/gradio_api/queue/join", {**body, "fn_index": number}).status_code == 404
    assert post(client, "/gradio_api/queue/join", {**body, "fn_index": 0, "data": [1] * 99}).status_code == 422
    for path in ("/nosuch", "/gradio_api/nosuch", "/assets/nosuch", "/abq/nosuch", "/abq/run/x/y.csv"):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert client.request(method, path).status_code in (403, 404, 405), (method, path)
    for path in ("/gradio_api/queue/data?session_hash=none", "/gradio_api/call/models/none", "/gradio_api/call/x/y"):
        answer = client.get(path)
        assert answer.status_code == 200 and "Not Found" in answer.text


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "://", "http://[v1]", "null", "x" * 5000])
def test_a_malformed_origin_is_refused(client: httpx.Client, origin: str) -> None:
    assert client.get("/config", headers={"Origin": origin}).status_code == 403


def test_a_client_raises_the_sentence(page: PageProcess) -> None:
    with pytest.raises(ValidationError, match="segments is 'two'"):
        Client(page.address, verbose=False).predict("builtin", "builtin", "two", 32, api_name="/evaluate")


def test_the_cases_cover_every_endpoint(client: httpx.Client) -> None:
    described = client.get("/gradio_api/info").json()["named_endpoints"]
    assert {name.lstrip("/") for name in described} == set(RIGHT)
    assert all(len(described[f"/{name}"]["parameters"]) == len(right) for name, right in RIGHT.items())
