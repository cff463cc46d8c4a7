"""The page in a process of its own, for Chromium: what `page_load.py` and the browser tests open."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
STARTED_WITHIN_SECONDS = 600


@contextmanager
def page_server(data: Path, *options: str) -> Iterator[str]:
    """The address of `abq app` with these options on a data folder. Raises RuntimeError if it does not start."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "app", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "ABQ_DATA_DIR": str(data)})
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while not answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"The page did not start on {address}.")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    """True once a server responds at the address."""
    try:
        with urllib.request.urlopen(address):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False
