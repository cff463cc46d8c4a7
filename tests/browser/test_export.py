"""Take a run away from the page: export it, read its proof, download it, and see where it loads."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from page_limits import JOB_MS, TEST_SECONDS
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def test_a_run_is_exported_checked_and_downloaded(page: Page, address: str) -> None:
    page.goto(f"{address}?tab=compare")
    page.locator("#compare-runs tr[data-key]", has_text="W4A4").filter(has_text="rtn").click()
    answer = page.locator("#export-answer")
    expect(answer).to_contain_text("Not exported to compressed-tensors yet")
    where = page.locator("#export-where tbody tr")
    expect(where.filter(has_text="ABQ Explorer")).to_contain_text("from_pretrained")
    expect(where.filter(has_text="vLLM on a CPU")).to_contain_text("no")

    page.get_by_label("activations without zero points, for vLLM").check()
    expect(answer).to_contain_text("--activations symmetric")
    page.locator("#export-format").get_by_label("transformers", exact=True).click()
    expect(answer).to_contain_text("Not exported to transformers yet")
    expect(page.locator("#export-symmetric")).to_be_hidden()
    page.get_by_role("button", name="Export", exact=True).click()
    expect(answer).to_contain_text("Checked in transformers", timeout=JOB_MS)
    expect(answer).to_contain_text("same most likely token")
    with page.expect_download() as download:
        answer.get_by_role("link", name="Download the export").click()
    files = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    names = {Path(name).name for name in files.namelist()}
    assert {"README.md", "config.json", "model.abq.safetensors", "proof.json"} <= names
    (proof,) = json.loads(files.read(next(name for name in files.namelist() if name.endswith("proof.json"))))
    assert proof["checked"] and proof["kl"] < 1e-2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    page.reload()
    page.locator("#export-format").get_by_label("transformers", exact=True).click()
    expect(answer).to_contain_text("Checked in transformers")  # it is kept
