"""An import in the browser: from the form on Compare to the Pareto figure, Distributions and Generate."""

from pathlib import Path
from urllib.parse import quote

import pytest
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytest.importorskip("gguf", reason="needs the extra gguf")

from gguf_cases import family_gguf

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def test_a_file_is_imported_compared_and_generated_from(
    page: Page, address: str, tiny_llama: Path, tmp_path: Path
) -> None:
    file, base = family_gguf("llama", tiny_llama / "tokenizer.json", tmp_path, "Q4_1")
    page.goto(f"{address}?tab=compare&model={quote(str(base))}&precision=W4A8")
    page.wait_for_function("location.search.includes('tab=compare')")
    page.get_by_role("button", name="Import a quantized model").click()
    source = page.locator("#compare-import-source textarea, #compare-import-source input").first
    source.fill(str(base))
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.locator("#compare-answer")).to_contain_text("describes no quantization")
    source.fill(str(file))
    page.get_by_role("button", name="Import", exact=True).click()
    row = page.locator("#calibrate-queue tr[data-key]", has_text="Q4_1")
    expect(row).to_contain_text("succeeded", timeout=JOB_MS)

    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-figure")).to_contain_text("Q4_1")
    page.locator("#compare-runs tr[data-key]", has_text="imported").click()
    page.wait_for_function("location.search.includes('run=r-')")
    expect(page.locator("#abq-precision input")).to_have_value("W4A8")  # the import's name is no precision
    page.get_by_role("tab", name="Distributions").click()
    expect(page.locator("#distributions-answer")).to_contain_text("imported")
    for figure in ("Weights", "Attention maps", "Levels", "Signal to noise"):
        page.get_by_role("radio", name=figure, exact=True).check()
        expect(page.locator("#distributions-figure .main-svg").first).to_be_visible()
    page.get_by_role("tab", name="Explore").click()
    expect(page.locator("#explore-answer")).to_contain_text("W4A8")
    page.get_by_role("tab", name="Generate").click()
    expect(page.locator("#generate-columns")).to_contain_text("Q4_1 imported")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#generate-answer")).to_contain_text("Q4_1 imported")
    assert "Traceback" not in page.content()
