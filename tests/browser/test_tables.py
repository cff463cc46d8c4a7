"""Tables fit at every width: optional columns give way, and the visitor can bring them back."""

import pytest
from page_limits import TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]
TABLE = "#throughput-table"


def fits(page: Page) -> bool:
    table = page.locator(f"{TABLE} .abq-scroll")
    return bool(table.evaluate("(table) => table.scrollWidth <= table.clientWidth"))


def shown(page: Page) -> list[str]:
    return [heading.inner_text().strip() for heading in page.locator(f"{TABLE} th:visible").all()]


def test_columns_give_way_at_a_small_width_and_can_be_chosen(page: Page, address: str) -> None:
    page.goto(f"{address}?tab=throughput")
    page.locator("#throughput-machine input").click()
    page.get_by_role("option", name="2.50GHz").click()
    expect(page.locator(TABLE)).to_contain_text("exact")
    assert fits(page)
    page.set_viewport_size({"width": 1920, "height": 900})
    page.wait_for_function("document.querySelector('#throughput-table .abq-columns summary').textContent === 'Columns'")
    every = shown(page)
    assert fits(page) and "threads" in every and any(name.startswith("over") for name in every)

    page.set_viewport_size({"width": 1000, "height": 900})
    columns = page.locator(f"{TABLE} .abq-columns summary")
    expect(columns).to_contain_text("hidden")
    few = shown(page)
    assert fits(page) and "threads" not in few and {"precision", "path", "equals int64"} <= set(few) < set(every)
    columns.press("Enter")
    box = page.locator(TABLE).get_by_role("checkbox", name="threads")
    box.focus()
    page.keyboard.press("Space")
    expect(page.locator(f"{TABLE} th:visible", has_text="threads")).to_be_visible()
    page.set_viewport_size({"width": 1920, "height": 900})
    box.uncheck()
    assert shown(page) == [name for name in every if name != "threads"]
