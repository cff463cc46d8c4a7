"""`abq app` in a process of its own, for tests of the page that only use HTTP."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

ROOT = Path(__file__).parents[2]
STARTED_WITHIN_SECONDS = 120


class PageProcess(NamedTuple):
    """The page's address without a slash at the end, and the file with its output."""

    address: str
    output: Path

    def client(self, name: str = "", password: str = "") -> httpx.Client:
        """A client of this page, with a name as that account."""
        return httpx.Client(base_url=self.address, auth=(name, password) if name else None, timeout=120)


@contextlib.contextmanager
def page_process(data: Path, *options: str, cwd: Path = ROOT, home: Path | None = None) -> Iterator[PageProcess]:
    """The page on the data folder `data` while the block runs. options: of `abq app`.  home: HOME of the process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data.mkdir(parents=True, exist_ok=True)
    output = data / "page-output.txt"
    settings = {"ABQ_DATA_DIR": str(data), "ABQ_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **settings, **({"HOME": str(home)} if home else {})}
    command = [sys.executable, "-m", "app.cli", "app", "--port", str(port), *options]
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


def call(client: httpx.Client, endpoint: str, *data: Any) -> str:
    """Everything that an endpoint returns, as its event stream or as the text of a refusal."""
    submitted = client.post(f"/gradio_api/call/{endpoint}", json={"data": list(data)})
    if submitted.status_code != 200:
        return submitted.text
    return client.get(f"/gradio_api/call/{endpoint}/{submitted.json()['event_id']}").text


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/metrics", timeout=10).status_code < 500
    except httpx.TransportError:
        return False
