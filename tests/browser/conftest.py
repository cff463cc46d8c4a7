"""The whole program: `abq app` in its own process, driven with Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
STARTED_WITHIN_SECONDS = 120
STEP_MS = 120_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `abq app` on an empty data folder, one per test file."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "ABQ_DATA_DIR": str(tmp_path_factory.mktemp("data"))}
    options = ["--port", str(port), "--allow", str(tmp_path_factory.getbasetemp())]
    process = subprocess.Popen([sys.executable, "-m", "app.cli", "app", *options], cwd=ROOT, env=environment)
    deadline = time.monotonic() + STARTED_WITHIN_SECONDS
    while not answers(f"http://127.0.0.1:{port}/"):
        assert process.poll() is None and time.monotonic() < deadline, "the page did not start"
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.wait()


def answers(address: str) -> bool:
    """True once a server responds at the address."""
    try:
        with urllib.request.urlopen(address):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose test fails if one of its scripts raises an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(STEP_MS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    context.close()
    assert not failures
