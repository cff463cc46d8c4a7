"""Conversations: own answers per column, new ones when what they depend on changes, and escaped texts."""

from dataclasses import replace
from types import SimpleNamespace

from app.web.page.conversation import Conversation

TITLES = {"full": ("Full precision", "full"), "W2A8": ("W2A8 rounded", "rounded")}


def answered(chat: Conversation, *texts: str, complete: bool = True) -> Conversation:
    """Add one token per column to the newest turn, and end it."""
    for column, text in zip(TITLES, texts, strict=True):
        chat.newest.add(
            SimpleNamespace(column=column, id=len(text), text=text, kl=0.1, chosen=len(text), candidates=())
        )
        end = {"tokens_per_second": 2.0, "first_token_seconds": 1.0, "weight_bytes": 1 << 20, "complete": complete}
        chat.newest.add(SimpleNamespace(column=column, **end))
    return chat


def test_each_column_reads_its_own_answers() -> None:
    first = answered(Conversation("m", "Be brief.", TITLES).asked("One", None), "Paris", "Rome")
    system, one = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "One"}
    assert first.messages() == {"full": [system, one], "W2A8": [system, one]}
    second = Conversation("m", "Be brief.", TITLES).asked("Two", first)
    two = {"role": "user", "content": "Two"}
    assert second.messages() == {
        "full": [system, one, {"role": "assistant", "content": "Paris"}, two],
        "W2A8": [system, one, {"role": "assistant", "content": "Rome"}, two],
    }
    assert len(first.turns) == 1, "the earlier conversation is unchanged"


def test_another_model_system_prompt_or_column_starts_a_new_conversation() -> None:
    first = Conversation("m", "", TITLES).asked("One", None)
    assert len(Conversation("m", "", dict(TITLES)).asked("Two", first).turns) == 2
    for change in ({"model": "other"}, {"system": "Be brief."}, {"titles": {"full": TITLES["full"]}}, {"follow": True}):
        other = replace(Conversation("m", "", TITLES), **change).asked("Two", first)
        assert len(other.turns) == 1
        assert "One" not in [message["content"] for message in other.messages()["full"]]


def test_all_turns_are_shown_and_texts_are_escaped() -> None:
    chat = answered(Conversation("m", "<i>sys", TITLES).asked("<u>One", None), "<b>x", "<b>yy")
    chat = answered(Conversation("m", "<i>sys", TITLES).asked("Two", chat), "x", "x", complete=False)
    shown = chat.html()
    for tag in ("<u>", "<b>x", "<i>sys"):
        assert tag not in shown
    assert shown.count("data-answer=") == 4 and shown.count("data-kl") == 4
    assert shown.index("&lt;u&gt;One") < shown.index("Two") and "&lt;i&gt;sys" in shown
    assert shown.count("abq-first") == 1, "the first answers differ, the second ones do not"
    assert shown.count("abq-cut") == 2, "an answer that reached the limit of new tokens is marked"
    assert shown.count("2.00 tokens/s") == 2
