"""Bits under a budget in the browser.

Candidates, the map of linear layers, and the calibration of the mix.
"""

import re

import pytest
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def test_a_budget_becomes_a_mix_and_the_mix_a_run(page: Page, address: str) -> None:
    page.goto(f"{address}?tab=compare&precision=W4A8")
    page.wait_for_function("location.search.includes('tab=compare')")
    page.get_by_role("radio", name="Bits under a budget").check()
    expect(page.locator("#budget-calibrate")).to_be_disabled()
    for candidate in ("W2*A8", "W3A8"):
        page.locator("#budget-candidates .token", has_text=candidate).locator("button, .token-remove").first.click()
    expect(page.locator("#budget-command code")).to_contain_text("--candidates W2A8,W4A8 --out mix.json")
    page.locator("#budget-scope").get_by_label("the whole model").check()
    expect(page.locator("#budget-command code")).to_contain_text("--bits-per-parameter 2.5")
    page.get_by_role("button", name="Choose the bits").click()
    expect(page.locator("#budget-answer")).to_contain_text("2.5 bits per parameter cannot be met")
    page.locator("#budget-bits input[type=number]").fill("4")
    page.locator("#budget-bits input[type=number]").blur()
    page.get_by_role("button", name="Choose the bits").click()
    expect(page.locator("#budget-answer")).to_contain_text(re.compile(r"h4e4mix-[0-9a-f]{6}"))
    expect(page.locator("#budget-answer")).to_contain_text("and the whole model 3.99 bits per parameter")
    page.locator("#budget-scope").get_by_label("the linear layers").check()
    page.locator("#budget-bits input[type=number]").fill("2.5")
    page.locator("#budget-bits input[type=number]").blur()
    page.get_by_role("button", name="Choose the bits").click()
    expect(page.locator("#budget-answer")).to_contain_text(re.compile(r"W2\.\d+A8mix-[0-9a-f]{6}"))
    expect(page.locator("#budget-figure .main-svg").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    expect(page.locator("#budget-command code")).not_to_contain_text("--bit-operations")
    page.locator("#budget-operations input").fill("12")
    page.locator("#budget-operations input").blur()
    expect(page.locator("#budget-command code")).to_contain_text("--bits 2.5 --bit-operations 12 --candidates")
    page.get_by_role("button", name="Choose the bits").click()
    expect(page.locator("#budget-answer")).to_contain_text("smallest possible is 16 bit operations per weight")
    page.locator("#budget-operations input").fill("")
    page.locator("#budget-operations input").blur()
    expect(page.locator("#budget-command code")).not_to_contain_text("--bit-operations")

    page.locator("#budget-bits input[type=number]").fill("1")
    page.locator("#budget-bits input[type=number]").blur()
    page.get_by_role("button", name="Choose the bits").click()
    expect(page.locator("#budget-answer")).to_contain_text("smallest possible is 2 bits per weight")
    assert "Traceback" not in page.content()

    page.locator("#budget-method").get_by_role("radio", name="rtn", exact=True).check()
    page.get_by_role("button", name="Calibrate this mix").click()
    row = page.locator("#calibrate-queue tr[data-key]", has_text="mix-")
    expect(row).to_contain_text("succeeded", timeout=JOB_MS)
    page.get_by_role("button", name="Show distributions").click()
    expect(page.locator("#distributions-answer")).to_contain_text("of the top tokens")
    expect(page.locator("#abq-precision input")).to_have_value(re.compile("mix-"))
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator("#explore-answer")).to_contain_text("assigns a precision to each of")
