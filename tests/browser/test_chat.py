"""The Generate tab with a chat model: two turns, a new conversation, plain continuation; and without a template."""

from pathlib import Path

import pytest
from page_limits import TEST_SECONDS
from playwright.sync_api import Page, expect
from tiny_tokenizers import chat_folder

pytestmark = [pytest.mark.browser, pytest.mark.timeout(TEST_SECONDS)]


def test_a_chat_has_turns_and_a_model_without_a_template_only_a_prompt(
    page: Page, address: str, tmp_path: Path
) -> None:
    model = chat_folder("llama", tmp_path / "chat")
    page.goto(f"{address}?model={model}&precision=W4A8&tab=generate")
    message = page.locator("#generate-message textarea")
    expect(message).to_be_visible()
    expect(page.locator("#generate-prompt")).to_be_hidden()
    page.locator("#generate-tokens input[type=number]").fill("8")
    page.locator("#generate-system textarea").fill("Be <brief>.")
    for turn, text in enumerate(("Hello", "And now?"), 1):
        message.fill(text)
        message.press("Enter")
        expect(page.locator("#generate-streams [data-answer]")).to_have_count(2 * turn)
        expect(page.locator("#generate-answer")).to_contain_text("mean KL")
        expect(message).to_have_value("")
    expect(page.locator("#generate-streams .abq-said")).to_have_text(["SystemBe <brief>.", "YouHello", "YouAnd now?"])
    expect(page.locator("#tab-generate code, .abq-command code").last).to_contain_text("--chat - --system")

    message.fill(" ")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#generate-answer .abq-problem")).to_contain_text("message is empty")
    expect(page.locator("#generate-streams [data-answer]")).to_have_count(4)
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#generate-streams .abq-empty")).to_contain_text("Chat side by side")

    page.get_by_role("radio", name="Continue a text").check()
    expect(page.locator("#generate-prompt")).to_be_visible()
    expect(message).to_be_hidden()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#generate-streams .abq-prompt")).to_have_count(2)

    page.goto(f"{address}?precision=W4A8&tab=generate")
    expect(page.locator("#generate-columns")).to_contain_text("W4A8 rounded")
    expect(page.locator("#generate-prompt")).to_be_visible()
    for name in ("mode", "message", "system", "new"):
        expect(page.locator(f"#generate-{name}")).to_be_hidden()
