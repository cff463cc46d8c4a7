"""The plane slider: an example run read at every width, and the slider moves through them."""

import csv

import pytest
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def test_a_run_is_read_at_fewer_planes(page: Page, address: str) -> None:
    page.goto(f"{address}?precision=W4A4&tab=compare")
    expect(page.locator("#compare-runs tbody tr").first).to_be_visible()
    page.locator("#compare-runs tbody tr", has_text="W4A4").first.click()
    page.get_by_role("radio", name="Fewer planes").check()
    expect(page.locator("#planes-answer")).to_contain_text("Not measured yet at 4 of 4 planes")
    page.get_by_role("button", name="Read with fewer planes").click()
    expect(page.locator("#planes-reads tbody tr")).to_have_count(3, timeout=JOB_MS)
    expect(page.locator("#planes-answer")).to_contain_text("At 4 of 4 planes")
    slider = page.locator("#planes-slider input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#planes-answer")).to_contain_text("At 3 of 4 planes")
    expect(page.locator("#planes-text h3")).to_have_count(2)
    expect(page.locator("#planes-command")).to_contain_text("abq runs planes r-")
    drawn = "document.querySelector('#planes-figure .abq-plot')._fullData.map(trace => [[...trace.x], [...trace.y]])"
    of_run, _, ring = page.evaluate(drawn)
    assert ring[0] == [3]
    with page.expect_download() as download:
        page.locator("#planes-figure .abq-csv").click()
    assert download.value.suggested_filename == "abq-planes.csv"
    rows = list(csv.DictReader(download.value.path().read_text("utf-8").splitlines()))
    assert [row["planes"] for row in rows] == ["4", "3", "2"]
    assert [float(row["kl_mean"]) for row in rows] == pytest.approx(of_run[1])
    page.get_by_role("textbox", name="Prompt").last.press("End")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
