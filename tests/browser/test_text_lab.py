"""Which text to calibrate on: calibrated and measured from the page."""

import pytest
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def test_two_texts_are_calibrated_and_every_pair_is_measured(page: Page, address: str) -> None:
    page.goto(f"{address}?precision=W4A4&tab=compare")
    expect(page.locator("#compare-runs tbody tr").first).to_be_visible()
    page.get_by_role("radio", name="Calibration text").check()
    expect(page.locator("#texts-answer")).to_contain_text("of 2 texts have a finished run")
    expect(page.locator("#texts-empty")).to_contain_text("No pair of texts is measured yet")
    page.locator("#texts-method").get_by_label("rtn", exact=True).check()
    expect(page.locator("#texts-answer")).to_contain_text("0 of 2 texts have a finished run")
    expect(page.locator("#texts-command")).to_contain_text("--on builtin,builtin-train")
    page.get_by_role("button", name="Calibrate on each text").click()
    expect(page.locator("#calibrate-queue tr[data-key]")).to_have_count(2)
    page.get_by_role("tab", name="Compare").click()  # while the jobs run: the panel follows them
    expect(page.locator("#texts-answer")).to_contain_text("2 of 2 texts have a finished run", timeout=JOB_MS)
    page.get_by_role("button", name="Measure every run on every text").click()
    expect(page.locator("#texts-answer")).to_contain_text("4 of 4 pairs are measured", timeout=JOB_MS)
    expect(page.locator("#texts-figure .main-svg").first).to_be_visible()
    assert page.evaluate("document.querySelector('#texts-figure .abq-plot').layout.shapes.length") == 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
