"""axe-core finds no serious fault on any tab, light or dark."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from page_limits import STEP_MS, TEST_SECONDS
from page_load import SHOWN
from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]
TABS = ("explore", "calibrate", "distributions", "generate", "throughput", "compare")
SERIOUS = {"serious", "critical"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_tab_has_a_serious_accessibility_fault(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(STEP_MS)
    found = []
    for tab in TABS:
        page.goto(f"{address}?tab={tab}&__theme={scheme}")
        page.get_by_role("tab", name=tab.capitalize(), selected=True).wait_for()
        page.locator("#abq-precision input").wait_for()
        page.locator(SHOWN[tab]).first.wait_for()  # a figure that is still loading is pale
        answer = Axe().run(page).response
        found += [
            f"{tab}: {fault['id']} at {[node['target'] for node in fault['nodes']]}"
            for fault in answer["violations"]
            if fault["impact"] in SERIOUS
        ]
        assert answer["passes"]
    page.context.close()
    assert not found
