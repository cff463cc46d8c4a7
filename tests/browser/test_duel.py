"""A duel in the browser: the names are nowhere in the page until the vote, and the results appear after five votes."""

import re

import pytest
from page_limits import TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]
NAMES = re.compile("Full precision|W3A8 rounded")


def test_votes_are_blind_and_add_up(page: Page, address: str) -> None:
    page.goto(f"{address}?tab=generate&precision=W3A8")
    page.wait_for_function("location.search.includes('tab=generate')")
    page.get_by_role("radio", name="Duel: which is better?").check()
    expect(page.locator("#duel-standings")).to_contain_text("there are 0")
    page.locator("#duel-tokens input[type=number]").fill("8")
    page.locator("#duel-tokens input[type=number]").blur()
    for number in range(1, 6):
        page.get_by_role("button", name="New duel").click()
        expect(page.locator("#duel-answer")).to_contain_text("after your vote")
        texts = page.locator("#duel-texts")
        expect(texts.locator("h3")).to_have_text(["Left", "Right"])
        assert not NAMES.search(texts.inner_html())
        page.get_by_role("button", name="Left is better" if number % 2 else "Equally good").click()
        expect(texts.locator("h3").first).to_have_text(NAMES)
        assert sorted(texts.locator("h3").all_inner_texts()) == ["Full precision", "W3A8 rounded"]
        expect(page.get_by_role("button", name="Left is better")).to_be_hidden()
    table = page.locator("#duel-standings table")
    expect(table).to_contain_text("95 % interval")
    cells = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
    assert {row[0] for row in cells} == {"Full precision", "W3A8 rounded"}
    assert [row[1] for row in cells] == ["5", "5"] and sum(int(row[2]) for row in cells) == 3
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.get_by_role("radio", name="Side by side").check()
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()
