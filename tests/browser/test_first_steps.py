"""A newcomer follows the three steps, and then the question at the end of each answer."""

import re

import pytest
from page_limits import TEST_SECONDS
from playwright.sync_api import Page, expect

from app.web.questions import NEXT, STEPS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]
SEEN = {
    "explore": ("#explore-answer", "W2*A8 rounds every weight to one of 5 levels"),
    "distributions": (".abq-empty:visible, #distributions-answer", "W2*A8"),
    "throughput": (".abq-empty:visible, #throughput-answer", "timings"),
}


def test_three_steps_lead_to_their_views_and_move_along(page: Page, address: str) -> None:
    page.goto(f"{address}?precision=W8A8&tab=compare")
    line = page.locator(".abq-steps")
    expect(line).to_be_visible()
    expect(line.locator("[aria-current]")).to_have_text("3 See what it buys.")
    expect(page.locator("#compare-answer .abq-next")).to_be_visible()
    page.evaluate("window.stayed = true")
    for number, step in enumerate(STEPS, start=1):
        line.get_by_role("link", name=f"{number} {step.text}").click()
        expect(page).to_have_url(re.compile(f"precision=W2\\*A8.*tab={step.tab}|tab={step.tab}.*precision=W2\\*A8"))
        expect(page.get_by_role("tab", name=step.tab.capitalize())).to_have_attribute("aria-selected", "true")
        place, text = SEEN[step.tab]
        expect(page.locator(place).filter(has_text=text).first).to_be_visible()
        expect(line.locator("[aria-current]")).to_have_text(f"{number} {step.text}")
    page.go_back()
    expect(page.get_by_role("tab", name="Distributions")).to_have_attribute("aria-selected", "true")
    expect(line.locator("[aria-current]")).to_have_text(f"2 {STEPS[1].text}")
    assert page.evaluate("window.stayed"), "the page was not loaded again"

    line.get_by_role("button", name="Hide the first steps").click()
    expect(line).to_be_hidden()
    page.reload()
    expect(page.get_by_role("tab", name="Distributions")).to_have_attribute("aria-selected", "true")
    expect(line).to_be_hidden()


def test_each_answer_ends_with_the_next_question(page: Page, address: str) -> None:
    page.goto(f"{address}?precision=W2*A8")
    tab = "explore"
    for _ in NEXT:
        link = page.locator(f"#{tab}-answer .abq-next")
        expect(link).to_have_text(NEXT[tab].text)
        assert page.locator(f"#{tab}-answer .abq-answer").inner_text().endswith(NEXT[tab].text)
        tab = NEXT[tab].tab
        link.press("Enter")
        expect(page).to_have_url(re.compile(f"tab={tab}"))
        expect(page.get_by_role("tab", name=tab.capitalize())).to_have_attribute("aria-selected", "true")
    assert tab == "explore", "the questions lead through all tabs"


def test_an_address_with_the_bits_of_one_tied_table_shows_those_of_both(page: Page, address: str) -> None:
    page.goto(f"{address}?precision=W4A8h8&tab=explore")
    expect(page.locator("#abq-precision input")).to_have_value("W4A8h8e8")
