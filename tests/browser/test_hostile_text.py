"""Hostile text is inert.

20 strings as model names, prompts and notes run no script and break no figure.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from gradio_client import Client
from page_limits import TEST_SECONDS
from playwright.sync_api import Page, expect

from abq_core.models.reference import BUILTIN_FOLDER

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]

SET = "window.pwned=1"
HOSTILE = [
    f"<script>{SET}</script>", f"<img src=x onerror={SET}>", f"<svg onload={SET}>", f"\"><img src=x onerror='{SET}'>",
    f"' onmouseover='{SET}", f"javascript:{SET}", f"<a href=javascript:{SET}>x</a>", f"<iframe srcdoc='<script>{SET}'>",
    f"</style><script>{SET}</script>", f"</pre><script>{SET}</script>", f"<details open ontoggle={SET}>", f"${{{SET}}}",
    f"{{{{{SET}}}}}", f"{{{{constructor.constructor('{SET}')()}}}}", "$\\href{javascript:" + SET + "}{x}$",
    "$$\\require{html}\\style{x}{y}$$", "'; DROP TABLE runs; --", "\" OR 1=1 --", "%3Cscript%3E" + SET,
    f"<math><mtext><img src=x onerror={SET}></mtext></math>",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(address: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Queued and cancelled runs of models with hostile names, each with a hostile note."""
    assert len(HOSTILE) == 20
    client = Client(address, verbose=False)
    names = []
    for text in HOSTILE:
        folder = tmp_path_factory.mktemp("models") / text.replace("/", "\N{DIVISION SLASH}")
        shutil.copytree(BUILTIN_FOLDER, folder)
        for model in (str(folder), "builtin"):
            made = client.predict(model, "W4A4", "rtn", "builtin", 2, 32, -1, 0, api_name="/submit")
            client.predict(made["job"], api_name="/cancel")
            client.predict(made["run"], text, api_name="/note")
        names.append(str(folder))
    return names


@pytest.fixture
def watched(page: Page) -> Page:
    """A page whose test fails if a dialog opens."""
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    return page


def unharmed(page: Page) -> None:
    assert page.evaluate("window.pwned") is None
    assert "Traceback" not in page.content()


def test_an_address_whose_precision_is_impossible_for_its_model_shows_another(watched: Page, address: str) -> None:
    watched.goto(f"{address}?tab=explore&precision=W4A8h8e4")  # the model's two tables are one
    expect(watched.locator("#abq-precision input")).to_have_value(re.compile("W2"))
    expect(watched.locator("#explore-figure .main-svg").first).to_be_visible()
    unharmed(watched)


def test_names_and_notes_are_shown_literally(
    watched: Page, address: str, models: list[str], record_property: Callable[..., None]
) -> None:
    record_property("hostile texts as names and notes", len(HOSTILE))
    watched.goto(f"{address}?tab=compare&precision=W4A4")
    for text in HOSTILE:
        expect(watched.locator("#compare-runs")).to_contain_text(text)
    unharmed(watched)
    watched.goto(f"{address}?tab=calibrate&precision=W4A4")
    for name in models[10:]:
        expect(watched.locator("#calibrate-queue")).to_contain_text(Path(name).name)
    unharmed(watched)


def test_figures_are_drawn_for_any_model_name(watched: Page, address: str, models: list[str]) -> None:
    for name in models[:3]:
        watched.goto(f"{address}?tab=explore&precision=W4A4&model={quote(name)}")
        expect(watched.locator("#explore-figure .main-svg").first).to_be_visible()
        unharmed(watched)


@pytest.mark.parametrize("tab", ["explore", "calibrate", "distributions", "generate", "throughput", "compare"])
def test_an_address_with_hostile_parts_is_harmless(watched: Page, address: str, tab: str) -> None:
    for text in HOSTILE[:: len(HOSTILE) // 5]:
        watched.goto(f"{address}?tab={tab}&model={quote(text)}&precision={quote(text)}&run={quote(text)}")
        expect(watched.locator(f"#tab-{tab}").first).to_be_visible()
        unharmed(watched)


def test_a_prompt_is_only_text(watched: Page, address: str, record_property: Callable[..., None]) -> None:
    record_property("as prompts", len(HOSTILE))
    watched.goto(f"{address}?tab=generate&precision=W4A4")
    expect(watched.locator("#generate-columns")).to_contain_text("W4A4 rounded")
    watched.locator("#generate-tokens input[type=number]").fill("8")
    watched.locator("#generate-tokens input[type=number]").blur()
    for text in HOSTILE:
        watched.locator("#generate-prompt textarea").fill(text)
        watched.get_by_role("button", name="Generate").click()
        expect(watched.locator("#generate-streams .abq-prompt").first).to_have_text(text)
        expect(watched.locator("#generate-answer")).to_contain_text("W4A4")
    unharmed(watched)


def test_a_document_and_its_candidates_are_only_text(watched: Page, address: str) -> None:
    watched.goto(f"{address}?tab=generate&precision=W4A4")
    expect(watched.locator("#generate-columns")).to_contain_text("W4A4 rounded")
    watched.locator("#generate-tokens input[type=number]").fill("8")
    watched.locator("#generate-tokens input[type=number]").blur()
    watched.locator("#generate-follow input").check()
    watched.get_by_role("button", name="Generate").click()
    expect(watched.locator("#generate-answer")).to_contain_text("would choose another token at")
    texts = watched.locator("#generate-streams .abq-text")
    texts.nth(1).locator("[data-top]").nth(2).evaluate(
        "(token, text) => { token.dataset.top = JSON.stringify([[text, 0.5, true]]); token.textContent = text; }",
        HOSTILE[1],
    )
    texts.nth(1).locator("[data-top]").nth(2).hover()
    expect(watched.locator(".abq-candidates")).to_contain_text("onerror")
    assert watched.locator(".abq-candidates img").count() == 0
    watched.get_by_role("radio", name="Document: where does it differ?").check()
    watched.locator("#document-own-text summary").click()
    watched.locator("#document-own-text textarea").fill("\n".join(HOSTILE))
    watched.get_by_role("button", name="Add the pasted text").last.click()
    expect(watched.locator("#document-data input")).to_have_value("pasted.txt (your text)")
    watched.locator("#document-go").click()
    expect(watched.locator("#document-answer")).to_contain_text("Read:")
    expect(watched.locator("#document-worst mark").first).to_be_visible()
    expect(watched.locator("#document-figure .main-svg").first).to_be_visible()
    assert watched.locator("#document-worst img, #document-worst script, #document-figure img").count() == 0
    unharmed(watched)
