"""No file leaks: file paths of every kind in place of a run, a model, a text or a URL.

Whatever the response is, it holds no contents of a file that the page does not offer.
"""

import contextlib
import http.client
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from app_cases import settings_in
from served import served

from app.services import Services, open_services

pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated")  # gradio sets it

CANARY = "canary-7f3a91"
ENDPOINTS: dict[str, list[Any]] = {  # "PATH" is replaced by a path
    "explore": ["PATH", "W2A8"],
    "allocate": ["PATH", 3.0, ["W2A8"]],
    "submit": ["PATH", "W4A4", "rtn", "PATH", 2, 32, -1, 0],
    "job": ["PATH"],
    "cancel": ["PATH"],
    "resume": ["PATH"],
    "diagnostics": ["PATH", "PATH"],
    "evaluate": ["PATH", "PATH", 2, 32],
    "generate": [["full", "PATH"], "PATH", 4, 0.0, 0, "PATH"],
    "bench": [["PATH"], ["PATH"], [1], 1],
    "note": ["PATH", "PATH"],
    "delete": ["PATH"],
}
ADDRESSES = [
    "/abq/run/{}/blocks.csv", "/abq/run/r-0123456789/{}.csv", "/abq/run/{}.zip", "/abq/export/{}/gguf.zip",
    "/abq/export/r-0123456789/{}.zip", "/abq/job/{}/losses.csv",
    "/abq/explore/{}.csv", "/abq/explore/linears.csv?model={}&precision=W2A8", "/abq/report.html?runs={}", "/abq/{}",
    "/abq/lens/bit-planes.csv?model={}&precision=W2A8&tensor=x", "/abq/lens/{}.csv",
    "/abq/lens/level-sets.csv?model={}&precision=W2A8&tensor=x",
    "/abq/lens/transform.csv?model={}&precision=W2A8&tensor=x",
    "/abq/lens/level-sets.csv?model=builtin&precision=W2A8&own={}",
    "/abq/predictions.csv?model={}", "/gradio_api/file={}", "/gradio_api/file/{}", "/static/{}", "/assets/{}",
    "/svelte/{}", "/gradio_api/proxy={}", "/gradio_api/custom_component/{}/client/component/index.js", "/{}",
    "/?deep_link={}", "/gradio_api/stream/s/1/1/{}", "/gradio_api/heartbeat/{}", "/gradio_api/call/models/{}",
    "/theme.css?v={}", "/login?next={}", "/pwa_icon/{}", "/monitoring/{}",
]  # fmt: skip


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A data folder with canary files: next to the database, among the runs, outside, and behind symlinks."""
    folder = tmp_path_factory.mktemp("files")
    opened = open_services(settings_in(folder / "data"))
    places = [folder, opened.settings.data_dir, opened.settings.runs_dir, opened.settings.logs_dir]
    for place in places:
        (place / "canary.txt").write_text(CANARY)
        (place / "canary.csv").write_text(f"{CANARY},{CANARY}\n")
        (place / "config.json").write_text(json.dumps({"model_type": CANARY, "auto_map": CANARY}))
    (opened.settings.data_dir / "abq.sqlite3-wal.copy").write_text(CANARY)
    outside = folder / "outside"
    (outside / "diagnostics").mkdir(parents=True)
    (outside / "diagnostics" / "blocks.parquet").write_text(CANARY)
    (outside / "spec.json").write_text(CANARY)
    os.symlink(outside, opened.settings.runs_dir / "r-0123456789")
    os.symlink(folder / "canary.txt", opened.settings.runs_dir / "link.txt")
    with pytest.MonkeyPatch.context() as patch:  # some of the paths are valid hub ids
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield opened


@pytest.fixture(scope="module")
def address(services: Services) -> Iterator[str]:
    with served(services) as address:
        assert httpx.get(address, timeout=300).status_code == 200
        yield address.rstrip("/")


@pytest.fixture(scope="module")
def paths(services: Services) -> list[str]:
    data = services.settings.data_dir
    absolute, upper = str(data / "canary.txt"), str(data / "CANARY.TXT")
    climbing = os.path.relpath(absolute, Path.cwd())
    found = [
        absolute, upper, str(data), str(data.parent / "canary.txt"), str(data / "abq.sqlite3"), "abq.sqlite3-wal",
        str(data / "abq.sqlite3-wal.copy"), str(data / "abq.sqlite3-journal"), str(data / "runs" / "link.txt"),
        str(data / "runs" / "r-0123456789" / "spec.json"), "r-0123456789", "../r-0123456789", "r-0123456789/../..",
        climbing, "../canary", "../canary.txt", "../../canary.txt", "..\\..\\canary.txt", "....//....//canary.txt",
        "%2e%2e/%2e%2e/canary.txt", "..%2f..%2fcanary.txt", "%252e%252e%252fcanary.txt", "..%c0%afcanary.txt",
        "file://" + absolute, "FILE://" + upper, "/proc/self/environ", "/proc/self/cwd/pyproject.toml",
        "canary.txt\0.csv", "~/../" + absolute, "//" + absolute, str(data) + "/./runs/../canary.txt",
    ]  # fmt: skip
    assert len(found) >= 30
    return found


def get(address: str, path: str) -> bytes:
    """The body of the response to exactly this request line, empty for an event stream."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=300)
    with contextlib.closing(connection):
        connection.putrequest("GET", path, skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            return b""
        return answer.read()


def call(client: httpx.Client, endpoint: str, data: list[Any]) -> str:
    """Everything that an endpoint returns."""
    submitted = client.post(f"/gradio_api/call/{endpoint}", json={"data": data})
    if submitted.status_code != 200:
        return submitted.text
    return client.get(f"/gradio_api/call/{endpoint}/{submitted.json()['event_id']}").text


def filled(value: Any, path: str) -> Any:
    if isinstance(value, list):
        return [filled(item, path) for item in value]
    return path if value == "PATH" else value


def leaks(text: str) -> bool:
    """True if the response holds file contents. It may repeat the requested path."""
    return CANARY in text or "[project]" in text or "ABQ_DATA_DIR=" in text or "SQLite format" in text


def test_no_url_leaks_a_file(address: str, paths: list[str], record_property: Callable[..., None]) -> None:
    record_property("paths", len(paths))
    record_property("requests", 2 * len(paths) * len(ADDRESSES))
    for form in ADDRESSES:
        for path in paths:
            for written in (urllib.parse.quote(path, safe=""), urllib.parse.quote(path, safe="/%.")):
                answer = get(address, form.format(written))
                assert not leaks(answer.decode("utf-8", "replace")), (form, written)


def check_endpoints(address: str, paths: list[str]) -> int:
    """Send every path to every endpoint, as text and as Gradio file data.

    Returns the number of requests.
    """
    requests = 0
    with httpx.Client(base_url=address, timeout=300) as client:
        for endpoint, arguments in ENDPOINTS.items():
            for path in paths:
                data = {"path": path, "url": f"file={path}", "meta": {"_type": "gradio.FileData"}}
                for sent in (filled(arguments, path), [data for _ in arguments]):
                    assert not leaks(call(client, endpoint, sent)), (endpoint, path)
                    requests += 1
    return requests


def test_no_endpoint_leaks_a_file(address: str, paths: list[str], record_property: Callable[..., None]) -> None:
    record_property("requests", check_endpoints(address, [*paths[:3], paths[9], paths[16]]))


@pytest.mark.slow
def test_no_endpoint_leaks_a_file_for_any_path(
    address: str, paths: list[str], record_property: Callable[..., None]
) -> None:
    record_property("requests", check_endpoints(address, paths))


def test_the_page_has_no_file_components(address: str) -> None:
    types = {component["type"] for component in httpx.get(f"{address}/config", timeout=300).json()["components"]}
    assert types and not types & {"file", "downloadbutton", "uploadbutton", "image", "video", "audio", "fileexplorer"}
