"""`abq app` in a process of its own, for tests of the page that only use HTTP."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

ROOT = Path(__file__).parents[2]
STARTED_WITHIN_SECONDS = 600


class PageProcess(NamedTuple):
    """The page's address without a slash at the end, and the file with its output."""

    address: str
    output: Path

    def client(self, name: str = "", password: str = "", source: str = "127.0.0.1") -> httpx.Client:
        """A client of this page, with a name as that account. source: its address, on Linux any 127.x.y.z."""
        transport = httpx.HTTPTransport(verify=False, local_address=source)  # no TLS: no certificates to load
        auth = (name, password) if name else None
        return httpx.Client(base_url=self.address, auth=auth, transport=transport, timeout=600)

    def connect(self, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """A connection on which these bytes were sent."""
        opened = socket.create_connection(("127.0.0.1", int(self.address.rpartition(":")[2])), 30, (source, 0))
        opened.sendall(sent)
        return opened


@contextlib.contextmanager
def page_process(
    data: Path, *options: str, cwd: Path = ROOT, home: Path | None = None, descriptors: int | None = None
) -> Iterator[PageProcess]:
    """The page on the data folder `data` while the block runs.

    options: of `abq app`.  home: HOME of the process.  descriptors: how many files it may open.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data.mkdir(parents=True, exist_ok=True)
    output = data / "page-output.txt"
    settings = {"ABQ_DATA_DIR": str(data), "ABQ_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings, **({"HOME": str(home)} if home else {})}
    command = [sys.executable, "-m", "app.cli", "app", "--port", str(port), *options]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=file, stderr=file)
    page = PageProcess(f"http://127.0.0.1:{port}", output)
    try:
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while not _answers(page.address):
            assert process.poll() is None and time.monotonic() < deadline, output.read_text("utf-8", "replace")
            time.sleep(0.1)
        yield page
    finally:
        process.terminate()
        process.wait()


HEARTBEAT = "event: heartbeat\ndata: null\n\n"  # while a slow machine works on an answer


def call(client: httpx.Client, endpoint: str, *data: Any) -> str:
    """Everything that an endpoint returns, as its event stream or as the text of a refusal; without heartbeats."""
    submitted = client.post(f"/gradio_api/call/{endpoint}", json={"data": list(data)})
    if submitted.status_code != 200:
        return submitted.text
    answer = client.get(f"/gradio_api/call/{endpoint}/{submitted.json()['event_id']}").text
    return answer.replace(HEARTBEAT, "")


def page_call(client: httpx.Client, name: str, data: Sequence[Any]) -> dict[str, Any]:
    """The last message about a call of the page's own function with this name."""
    functions = client.get("/config").json()["dependencies"]
    number = next(one["id"] for one in functions if one["api_name"] == name)
    return join(client, {"data": list(data), "fn_index": number, "session_hash": name})


def join(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """Send a call by number, in a session of its own. Returns its last message."""
    sent = client.post("/gradio_api/queue/join", json=body)
    assert sent.status_code == 200, sent.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": body["session_hash"]}) as stream:
        for line in stream.iter_lines():
            message: dict[str, Any] = json.loads(line.removeprefix("data:") or "{}")
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the call was not answered")


def result(answer: str) -> Any:
    """The value of an endpoint, from the event stream that `call` returns."""
    return json.loads(answer.split("event: complete\ndata: ", 1)[1].split("\n", 1)[0])[0]


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/metrics", timeout=10).status_code < 500
    except httpx.TransportError:
        return False
