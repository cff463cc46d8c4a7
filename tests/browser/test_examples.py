"""The first visit: every tab shows something before any command. Examples can be hidden, deleted and replaced."""

import re

import pytest
from page_calls import submit_rounding
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_function(f"location.search.includes('tab={name.lower()}')")


def test_every_tab_shows_something_before_any_command(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("#explore-figure .main-svg").first).to_be_visible()
    expect(page.locator("#abq-run input")).to_have_value("W2*A8 abq (example)")
    open_tab(page, "Calibrate")
    expect(page.locator("#calibrate-answer")).to_contain_text("W2*A8 with abq")
    expect(page.locator(".abq-empty:visible")).to_contain_text("No jobs yet")
    open_tab(page, "Distributions")
    expect(page.locator("#distributions-answer")).to_contain_text("This run is an example.")
    expect(page.locator("#distributions-figure .main-svg").first).to_be_visible()
    open_tab(page, "Generate")
    expect(page.locator("#generate-columns")).to_contain_text("W2*A8 abq (example)")
    expect(page.locator("#generate-answer")).to_contain_text("This text came with the examples.")
    expect(page.locator("#generate-streams .abq-stream")).to_have_count(3)
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#generate-streams")).to_contain_text("tokens/s")
    expect(page.locator("#generate-answer")).to_contain_text("mean KL")
    expect(page.locator("#generate-answer")).not_to_contain_text("came with the examples")
    open_tab(page, "Throughput")
    expect(page.locator("#throughput-answer")).to_contain_text("not on this machine")
    expect(page.locator("#throughput-figure .main-svg").first).to_be_visible()
    open_tab(page, "Compare")
    expect(page.locator("#compare-runs tbody tr", has_text="example")).to_have_count(8)  # 7 runs and full precision
    expect(page.locator("#compare-answer")).to_contain_text("7 runs are examples")
    expect(page.locator("#compare-figure .main-svg").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_examples_are_hidden_shown_and_deleted(page: Page, address: str) -> None:
    page.goto(f"{address}?tab=compare")
    page.get_by_role("button", name="Hide the 7 examples").click()
    expect(page.locator("#compare-runs .abq-empty")).to_contain_text("No runs yet")
    expect(page.locator("#abq-run input")).to_have_value("No run selected")
    open_tab(page, "Distributions")
    expect(page.locator(".abq-empty:visible")).to_contain_text("No run of builtin at W2*A8 yet")
    open_tab(page, "Compare")
    page.get_by_role("button", name="Show the 7 examples").click()
    expect(page.locator("#compare-runs tbody tr")).to_have_count(8)

    rounded = page.locator("#compare-runs tr[data-key]", has_text="W2*A8").filter(has_text="rtn")
    rounded.click()
    expect(page.locator("#abq-run input")).to_have_value("W2*A8 rtn (example)")
    for name in ("histograms", "attention_heads"):
        data = page.request.get(f"{address}abq/run/{rounded.get_attribute('data-key')}/{name}.csv").text()
        assert "rounded" in data and "corrected" not in data
    page.get_by_role("button", name="Delete the selected run").click()
    yes = page.get_by_role("button", name="Yes, delete it and its files")
    page.get_by_role("button", name="No, keep it").click()
    expect(yes).to_be_hidden()
    page.get_by_role("button", name="Delete the selected run").click()
    yes.click()
    expect(page.locator("#compare-runs tbody tr")).to_have_count(7)
    expect(page.get_by_role("button", name="Hide the 6 examples")).to_be_visible()


def test_a_run_made_here_replaces_the_selected_example(page: Page, address: str) -> None:
    page.goto(f"{address}?tab=distributions&precision=W4A4")
    expect(page.locator("#abq-run input")).to_have_value("W4A4 abq (example)")
    submit_rounding(address, "W4A4", 32)
    expect(page.locator("#abq-run input")).to_have_value(re.compile(r"W4A4 rtn \(r-"), timeout=JOB_MS)
    expect(page.locator("#distributions-answer")).not_to_contain_text("example")
