"""A GGUF file in the page: Explore says what its weights were."""

from pathlib import Path
from urllib.parse import quote

import pytest
from page_limits import TEST_SECONDS
from playwright.sync_api import Page, expect

pytest.importorskip("gguf", reason="needs the extra gguf")

from gguf_cases import family_gguf

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


@pytest.mark.parametrize(("kind", "stored"), [("Q4_1", "Q4_1, 5.0 bits a weight"), ("F16", "F16, 16.0 bits a weight")])
@pytest.mark.parametrize("precision", ["W4A8", "W16A8"])
def test_explore_says_how_the_file_stores_its_weights(
    page: Page, address: str, tiny_llama: Path, tmp_path: Path, kind: str, stored: str, precision: str
) -> None:
    file, _ = family_gguf("llama", tiny_llama / "tokenizer.json", tmp_path, kind)
    page.goto(f"{address}?model={quote(str(file))}&precision={precision}")
    answer = page.locator("#explore-answer")
    expect(answer).to_contain_text(precision)
    expect(page.locator(".abq-facts:visible").first).to_contain_text(stored)
    assert ("already quantized" in answer.inner_text()) is (kind == "Q4_1")
