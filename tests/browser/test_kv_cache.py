"""The KV cache view: smaller caches measured from the page."""

import pytest
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def test_smaller_caches_are_measured(page: Page, address: str) -> None:
    page.goto(f"{address}?precision=W4A4&tab=compare")
    expect(page.locator("#compare-runs tbody tr").first).to_be_visible()
    page.get_by_role("radio", name="KV cache").check()
    expect(page.locator("#kv-empty")).to_contain_text("No size of the KV cache is measured yet")
    page.locator("#kv-tokens input[type=range]").focus()
    page.keyboard.press("Home")
    expect(page.locator("#kv-command")).to_contain_text("--tokens 64")
    page.get_by_role("button", name="Measure smaller caches").click()
    expect(page.locator("#kv-answer")).to_contain_text("The smallest cache within", timeout=JOB_MS)
    expect(page.locator("#kv-sizes tbody tr")).to_have_count(28)
    expect(page.locator("#kv-figure .main-svg").first).to_be_visible()
    assert page.evaluate("document.querySelector('#kv-figure .abq-plot').data.length") == 8
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
