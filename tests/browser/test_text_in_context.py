"""Text in context as Chromium shows it: a token's candidates by pointer and keyboard, and KL along a document."""

from typing import Any

import numpy as np
import pytest
import torch
from page_limits import TEST_SECONDS
from playwright.sync_api import Page, expect

from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.tokenizer import encode, text_prefix
from abq_core.precision import Precision
from abq_core.text.sources import read_text

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]
PROMPT = "When an exception"


@pytest.fixture(scope="module")
def models() -> tuple[LoadedModel, LoadedModel]:
    """The built-in model, at full precision and rounded to W4A4."""
    full = load_model("builtin")
    return full, rounded_model(full, Precision.parse("W4A4"), "simulated")


def log_probabilities(model: LoadedModel, ids: list[int]) -> np.ndarray:
    """(tokens, vocabulary), of the token after each."""
    with torch.inference_mode():
        return torch.log_softmax(model.model(torch.tensor([ids])).logits[0].double(), -1).numpy()


def test_candidates_are_those_of_the_models_and_follow_the_arrow_keys(
    page: Page, address: str, models: tuple[LoadedModel, LoadedModel]
) -> None:
    page.goto(f"{address}?precision=W4A4&tab=generate")
    expect(page.locator("#generate-columns")).to_contain_text("W4A4 rounded")
    page.locator("#generate-tokens input[type=number]").fill("16")
    page.locator("#generate-tokens input[type=number]").blur()
    page.locator("#generate-temperature input[type=number]").fill("0")
    page.locator("#generate-temperature input[type=number]").blur()
    page.locator("#generate-follow input").check()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#generate-answer")).to_contain_text("would choose another token at")
    texts = page.locator("#generate-streams .abq-text")
    assert texts.nth(0).inner_text() == texts.nth(1).inner_text()
    box = page.locator(".abq-candidates")
    texts.nth(1).locator("[data-top]").nth(1).hover()
    expect(box.locator("h3")).to_contain_text("Token 2:")
    base = models[0]
    ids = [*text_prefix(base.tokenizer), *encode(base.tokenizer, [PROMPT], special_tokens=False)[0]]
    ids.append(int(log_probabilities(base, ids)[-1].argmax()))
    for column, model in enumerate(models):
        expected = np.sort(np.exp(log_probabilities(model, ids)[-1]))[::-1][:5]
        shown = [float(text.rstrip(" %")) for text in box.locator("section").nth(column).locator("b").all_inner_texts()]
        assert shown == pytest.approx(100 * expected, abs=0.6 if column else 0.06)
    page.mouse.move(2, 2)
    expect(box).to_be_hidden()
    texts.nth(0).focus()
    expect(box.locator("h3")).to_contain_text("Token 1:")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(box.locator("h3")).to_contain_text("Token 2:")
    assert texts.nth(1).locator("[data-top]").nth(1).evaluate("(token) => token === document.activeElement")
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()


def test_the_strip_of_a_document_has_the_kl_of_the_models(
    page: Page, address: str, models: tuple[LoadedModel, LoadedModel]
) -> None:
    page.goto(f"{address}?precision=W4A4&tab=generate")
    expect(page.locator("#generate-columns")).to_contain_text("W4A4 rounded")
    page.get_by_role("radio", name="Document: where does it differ?").check()
    text = read_text("builtin", "evaluation").documents[0][:1200]
    page.locator("#document-own-text summary").click()
    page.locator("#document-own-text textarea").fill(text)
    page.get_by_role("button", name="Add the pasted text").last.click()
    expect(page.locator("#document-data input")).to_have_value("pasted.txt (your text)")
    example = page.locator("#document-columns .token", has_text="example")
    example.locator("button, .token-remove").first.click()
    expect(example).to_have_count(0)
    page.locator("#document-go").click()
    expect(page.locator("#document-answer")).to_contain_text("Read:")
    expect(page.locator("#document-figure .main-svg").first).to_be_visible()
    ids = encode(models[0].tokenizer, [text], special_tokens=False)[0]
    prefix = list(text_prefix(models[0].tokenizer))
    full, own = (log_probabilities(model, [*prefix, *ids])[len(prefix) or 0 : -1] for model in models)
    kl = (np.exp(full) * (full - own)).sum(1)
    cells: Any = page.evaluate(
        "[...document.querySelector('#document-figure .abq-plot').calcdata[0][0].z].map(r => [...r])"
    )
    drawn = np.array([value for line in cells for value in line if value is not None], float)
    drawn = drawn[np.isfinite(drawn)]
    assert len(drawn) == len(kl) and np.abs(drawn - kl).mean() < 0.02
    worst = page.locator("#document-worst tbody tr").first
    assert int(worst.locator("td").first.inner_text().replace(",", "")) == int(drawn.argmax()) + len(ids) - len(kl)
    expect(worst).to_contain_text(f"{drawn.max():.4f} nats")
    expect(worst.locator("mark")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
