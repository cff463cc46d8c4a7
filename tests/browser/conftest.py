"""The whole program: `abq app` in its own process, driven with Chromium."""

from collections.abc import Iterator

import pytest
from page_limits import STEP_MS
from page_server import CHROMIUM, FLAGS, page_server
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=STEP_MS)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `abq app` on an empty data folder, one per test file."""
    allowed = str(tmp_path_factory.getbasetemp())
    with page_server(tmp_path_factory.mktemp("data"), "--allow", allowed) as address:
        yield address


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
