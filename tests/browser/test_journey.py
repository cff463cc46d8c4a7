"""A visitor's path through the six tabs with the built-in model, and the errors on the way."""

import json
import re

import pytest
from page_calls import submit_rounding
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_function(f"location.search.includes('tab={name.lower()}')")


def choose_precision(page: Page, precision: str) -> None:
    box = page.locator("#abq-precision input")
    box.fill(precision)
    box.press("Enter")
    box.blur()


def tables_fit(page: Page) -> bool:
    """True if no visible table needs a horizontal scroll bar."""
    tables = "[...document.querySelectorAll('.abq-scroll')].filter((table) => table.offsetParent)"
    return page.evaluate(f"{tables}.every((table) => table.scrollWidth <= table.clientWidth)")


def redrawn(page: Page, figure: str, label: str) -> None:
    """Choose a figure and wait until it is drawn."""
    before = page.locator(f"#{figure} [data-drawn], #{figure}[data-drawn]").first.get_attribute("data-drawn")
    page.get_by_role("radio", name=label, exact=True).check()
    drawn = """([id, before]) =>
        (document.querySelector(`#${id}[data-drawn], #${id} [data-drawn]`)?.dataset.drawn ?? '0') !== before"""
    page.wait_for_function(drawn, arg=[figure, before])


def test_a_visitor_s_path_through_the_six_tabs(page: Page, address: str) -> None:
    page.goto(address)

    expect(page.locator("#explore-answer")).to_contain_text(
        "W2*A8 rounds every weight to one of 5 levels (bit balance)"
    )
    expect(page.locator("#explore-figure .main-svg").first).to_be_visible()
    choose_precision(page, "W4A4")
    expect(page.locator("#explore-answer")).to_contain_text("W4A4 rounds every weight to one of 16 levels")
    expect(page).to_have_url(re.compile("precision=W4A4"))
    for picture in ("Levels", "Signal to noise", "Outlier channels"):
        redrawn(page, "explore-figure", picture)
    with page.expect_download() as download:
        page.locator("#explore-figure a", has_text="CSV").click()
    assert download.value.suggested_filename == "outliers.csv"

    tables, costs = page.locator("#explore-table-bits"), page.locator("#explore-table-costs")
    expect(costs.get_by_role("row", name=re.compile(r"8 4\.87"))).to_be_visible()  # the choice now shows W4A4 as well
    tables.get_by_label("8", exact=True).check()
    expect(page).to_have_url(re.compile("precision=W4A4h8e8&"))
    expect(page.locator("#explore-answer")).to_contain_text("the whole model has 4.87 bits per parameter")
    page.get_by_role("button", name="Measure their cost in KL").click()
    expect(costs.get_by_role("row", name=re.compile(r"8 4\.87 0\.0001 nats 9\d\.\d %"))).to_be_visible()
    tables.get_by_label("16", exact=True).check()
    expect(page).to_have_url(re.compile("precision=W4A4&"))

    choose_precision(page, "W3A8")
    expect(page).to_have_url(re.compile("precision=W3A8&"))
    open_tab(page, "Distributions")
    expect(page.locator(".abq-empty:visible")).to_contain_text("No run of builtin at W3A8 yet")
    choose_precision(page, "W4A4")
    expect(page).to_have_url(re.compile("precision=W4A4&"))

    open_tab(page, "Calibrate")
    for method in ("abq+", "rtn", "abq+", "abq"):  # the default components need no --switch
        page.locator("#calibrate-method").get_by_role("radio", name=f"{method}:").check()
        for _ in range(2):
            own = f"abq calibrate builtin --precision W4A4 --method {method}"
            expect(page.locator("#calibrate-command code")).to_have_text(own)
            page.wait_for_timeout(500)
    page.locator("#calibrate-length input[type=range]").fill("30")
    expect(page.locator("#calibrate-command code")).to_have_text(f"{own} --epochs 6")
    expect(page.locator("#calibrate-length")).to_contain_text(
        re.compile(r"About \d.* No other length of this calibration")
    )
    page.get_by_role("button", name="Text, segments, epochs and seed").click()
    expect(page.locator("#calibrate-epochs input")).to_have_value("6")
    for field, value in (("segments", "2"), ("seq-len", "64"), ("epochs", "1")):
        page.locator(f"#calibrate-{field} input").fill(value)
        page.locator(f"#calibrate-{field} input").blur()
    expect(page.locator("#calibrate-command code")).to_contain_text("--segments 2 --seq-len 64 --epochs 1")
    expect(page.locator("#calibrate-answer")).to_contain_text("1 epoch per block")
    page.get_by_role("button", name="Calibrate", exact=True).click()
    expect(page.locator("#calibrate-answer")).to_contain_text("Queued as run")
    row = page.locator("#calibrate-queue tr[data-key]")
    expect(row).to_contain_text("succeeded", timeout=JOB_MS)
    expect(page.locator("#calibrate-figure .main-svg").first).to_be_visible()
    expect(page.locator("#calibrate-log")).to_contain_text("Block 6 of 6")

    page.get_by_role("button", name="Show distributions").click()
    expect(page.locator("#distributions-answer")).to_contain_text("of the top tokens")
    expect(page).to_have_url(re.compile(r"run=r-[0-9a-f]{10}"))
    expect(page.locator("#distributions-figure .main-svg").first).to_be_visible()
    for picture in ("Weights", "Activations", "Block outputs", "Attention maps", "Balance", "Clipping"):
        redrawn(page, "distributions-figure", picture)

    open_tab(page, "Generate")
    expect(page.locator("#generate-columns")).to_contain_text("W4A4 abq")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#generate-answer")).to_contain_text("mean KL")
    assert page.locator("#generate-streams section").count() == 3
    assert page.locator("#generate-streams span[data-kl]").count() > 20
    expect(page.locator("#generate-streams .abq-first").first).to_be_visible()

    open_tab(page, "Throughput")
    for field in ("precisions", "shapes"):
        page.locator(f"#throughput-{field} .remove-all, #throughput-{field} [aria-label='Clear all']").first.click()
    page.locator("#throughput-precisions input").fill("W2A8")
    page.locator("#throughput-precisions input").press("Enter")
    page.locator("#throughput-shapes input").fill("512x512")
    page.locator("#throughput-shapes input").press("Enter")
    page.get_by_role("button", name="Time the kernels").click()
    expect(page.locator("#throughput-table")).to_contain_text("exact")
    expect(page.locator("#throughput-figure .main-svg").first).to_be_visible()
    assert tables_fit(page)

    open_tab(page, "Compare")
    rows = page.locator("#compare-runs tbody tr")
    expect(rows).to_have_count(9)
    expect(rows.filter(has_not_text="example")).to_have_count(2)  # this run, and full precision as measured here
    expect(page.locator("#compare-figure .main-svg").first).to_be_visible()
    page.locator("#compare-note textarea, #compare-note input").first.fill("<img src=x onerror=alert(1)> kept")
    page.locator("#compare-note textarea, #compare-note input").first.press("Enter")
    expect(page.locator("#compare-runs")).to_contain_text("<img src=x onerror=alert(1)> kept")
    page.locator("#compare-evaluation button").first.click()
    page.locator("#compare-evaluate").click()
    expect(page.locator("#compare-evaluation-answer")).to_contain_text("on 32 segments of 512 tokens")
    expect(page.locator("#compare-evaluation-answer")).to_contain_text("floor")
    expect(page.locator("#compare-kl .main-svg").first).to_be_visible()
    expect(page.locator("#compare-runs")).to_contain_text("floor")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the report").click()
    assert download.value.suggested_filename.endswith(".html")
    assert tables_fit(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_page_that_waits_for_a_run_selects_it_and_other_pages_stay_unchanged(page: Page, address: str) -> None:
    page.goto(f"{address}?tab=distributions&precision=W8A8")
    page.wait_for_function("location.search.includes('precision=W8A8')")
    submit_rounding(address, "W8A8", 32)
    expect(page).to_have_url(re.compile(r"run=r-[0-9a-f]{10}"), timeout=JOB_MS)
    expect(page.locator("#abq-run input")).to_have_value(re.compile("W8A8 rtn"))
    expect(page.locator("#distributions-answer")).to_contain_text("of the top tokens", timeout=JOB_MS)

    offer = page.locator("#abq-offer textarea, #abq-offer input").first.input_value()
    changed = {"model": "another", "precision": "W2A8", "run": "r-0123456789"}
    for name, value in changed.items():
        now = json.dumps({**json.loads(offer)["selection"], name: value})
        assert page.evaluate("([offer, text]) => window.abq.applyOffer(offer, text)", [offer, now]) == []
    elsewhere = json.dumps({**json.loads(offer)["selection"], "tab": "explore"})
    taken = page.evaluate("([offer, text]) => window.abq.applyOffer(offer, text)", [offer, elsewhere])
    assert json.loads(taken[0]) == {**json.loads(elsewhere), "run": json.loads(offer)["run"]}


def test_invalid_input_gets_a_sentence(page: Page, address: str) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(f"{address}?precision=W4A4")
    expect(page.locator("#explore-answer")).to_contain_text("W4A4")
    choose_precision(page, "W9A8")
    expect(page.get_by_text("9 weight bits")).to_be_visible()
    expect(page.locator("#abq-precision input")).to_have_value("W4A4")
    page.goto(f"{address}?model=<script>alert(1)</script>&precision=W4A4")
    expect(page.locator("#explore-answer [role=alert], #explore-answer .abq-problem")).to_contain_text("<script>")
    assert "Traceback" not in page.content()
    assert not dialogs


def test_dark_and_light_follow_the_browser(page: Page, address: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(address)
    paper = page.locator("#explore-figure .main-svg").first
    expect(paper).to_have_css("background-color", "rgb(15, 21, 36)")
    page.emulate_media(color_scheme="light")
    expect(paper).to_have_css("background-color", "rgb(255, 255, 255)")
