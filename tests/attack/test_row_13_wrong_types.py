"""Row 13: wrong types, malformed requests and unknown routes end in tracebacks, 500 or an empty error."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import ValidationError
from page_process import PageProcess, join, page_process

pytestmark = pytest.mark.attack(row=13)

WRONG: list[Any] = [None, True, 1.5, "text", [], {}, [None], {"a": 1}, -(10**30), "\ud800", [["x"]], float("nan")]
RIGHT: dict[str, list[Any]] = {
    "models": [],
    "explore": ["builtin", "W2A8"],
    "allocate": ["builtin", 3.0, ["W2A8"], 0.0],
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


def widgets(client: httpx.Client) -> dict[int, tuple[str, list[dict[str, Any]]]]:
    """The page's own functions: number -> name, and the components of the inputs."""
    config = client.get("/config").json()
    parts = {part["id"]: part for part in config["components"]}
    own = (one for one in config["dependencies"] if one["api_name"] not in RIGHT and one["backend_fn"])
    return {one["id"]: (one["api_name"], [parts[number] for number in one["inputs"]]) for one in own}


def wrong_for(part: dict[str, Any]) -> list[Any]:
    """The values that this widget cannot have. The value of a state stays on the server."""
    kind = part["type"]
    fitting: dict[str, Callable[[Any], bool]] = {
        "textbox": lambda value: type(value) is str,
        "dropdown": lambda value: type(value) is (list if part["props"].get("multiselect") else str),
        "number": lambda value: isinstance(value, int | float) and type(value) is not bool,
        "slider": lambda value: isinstance(value, int | float) and type(value) is not bool,
        "checkbox": lambda value: type(value) is bool,
        "checkboxgroup": lambda value: value == [],
        "radio": lambda value: False,
        "state": lambda value: True,
    }
    never = ["\ud800", float("nan")] if kind != "state" else []
    some = [value for value in WRONG if value is not None and value == value and value != "\ud800"]
    return never + [value for value in some if value != [] and not fitting[kind](value)]


def test_every_wrong_value_of_a_widget_is_answered_with_422_and_a_sentence(
    client: httpx.Client, tried: Callable[[int], None]
) -> None:
    calls = 0
    for number, (name, parts) in widgets(client).items():
        right = [typed(part, "{}") for part in parts]
        for position, part in enumerate(parts):
            for value in wrong_for(part):
                data = [*right[:position], value, *right[position + 1 :]]
                body = {"data": data, "fn_index": number, "session_hash": "wrong", "event_data": CHOSEN}
                answer = post(client, "/gradio_api/queue/join", body)
                assert answer.status_code == 422 and answer.json()["error"].endswith("."), (name, part, value)
                calls += 1
    tried(calls)
    assert calls > 1000


CHOSEN = {"index": 0, "value": "nosuch"}
SELECTIONS = [
    {"model": "/nosuch", "precision": "W4A4", "run": "r-ffffffffff"},
    {"model": "builtin", "precision": "nosuch"},
]


def typed(part: dict[str, Any], selection: str) -> Any:
    """A value of the right type that fits nothing."""
    props = part["props"]
    values = {"textbox": "nosuch", "number": -1, "slider": -1, "checkbox": True, "checkboxgroup": [], "state": None}
    if props.get("elem_id") == "abq-selection":
        return selection
    if part["type"] == "radio":
        return props["choices"][-1][1]
    if part["type"] == "dropdown":
        return ["nosuch"] if props.get("multiselect") else "nosuch"
    return values[part["type"]]


@pytest.mark.parametrize("tab", ["explore", "calibrate", "distributions", "generate", "throughput", "compare"])
def test_values_that_fit_nothing_are_answered_with_a_sentence(
    client: httpx.Client, tab: str, tried: Callable[[int], None]
) -> None:
    calls, unexpected = 0, []
    selecting = {one["id"] for one in client.get("/config").json()["dependencies"] if one["collects_event_data"]}
    for number, (name, parts) in widgets(client).items():
        for kind, selection in enumerate(SELECTIONS):
            session = f"{tab}-{number}-{kind}"
            data = [typed(part, json.dumps({**selection, "tab": tab})) for part in parts]
            event = CHOSEN if number in selecting else "{}"  # as a browser sends it
            answer = join(client, {"data": data, "fn_index": number, "session_hash": session, "event_data": event})
            if not (answer["success"] or answer["output"]["error"]) or "failed unexpectedly" in json.dumps(answer):
                unexpected.append((name, selection, answer["output"]))
            calls += 1
    tried(calls)
    assert not unexpected


@pytest.mark.parametrize("event", [None, {}, {"index": 0}, {"index": "0", "value": "x"}, {"index": 0, "value": {}}])
def test_a_malformed_event_is_answered_with_422(client: httpx.Client, event: object) -> None:
    selecting = [one for one in client.get("/config").json()["dependencies"] if one["collects_event_data"]]
    assert len(selecting) >= 3
    for one in selecting:
        data = ["{}"] * len(one["inputs"])
        body = {"data": data, "fn_index": one["id"], "session_hash": "event", "event_data": event}
        assert post(client, "/gradio_api/queue/join", body).status_code == 422


def test_hostile_selections_and_files_are_answered_with_a_sentence(client: httpx.Client) -> None:
    numbers = {name: number for number, (name, _) in widgets(client).items()}
    server_file = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    for case, text in enumerate(("[" * 100_000, "9" * 5000, "null", '{"tab": 5}', "\u0000")):
        body = {"data": [text, None], "fn_index": numbers["watch"], "session_hash": f"hostile-{case}"}
        assert join(client, body)["success"]
    body = {"data": [server_file, None], "fn_index": numbers["watch"], "session_hash": "file"}
    assert post(client, "/gradio_api/queue/join", body).status_code == 422
    body = {"data": ["{}", server_file], "fn_index": numbers["watch"], "session_hash": "file in a state"}
    assert join(client, body)["success"]


def test_a_client_raises_the_sentence(page: PageProcess) -> None:
    with pytest.raises(ValidationError, match="segments is 'two'"):
        Client(page.address, verbose=False).predict("builtin", "builtin", "two", 32, api_name="/evaluate")


def test_the_cases_cover_every_endpoint(client: httpx.Client) -> None:
    described = client.get("/gradio_api/info").json()["named_endpoints"]
    assert {name.lstrip("/") for name in described} == set(RIGHT)
    assert all(len(described[f"/{name}"]["parameters"]) == len(right) for name, right in RIGHT.items())
