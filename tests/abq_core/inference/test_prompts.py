"""Prompts: BOS once, end tokens of the template, one conversation per column, and malformed conversations."""

from pathlib import Path

import pytest
from tiny_tokenizers import BOS, CHAT_TOKENS, END_OF_TEXT, END_OF_TURN, chat_folder

import abq_core as abq
from abq_core.inference.errors import PromptError
from abq_core.inference.generate import Finished, Token, generate
from abq_core.inference.prompts import conversation, is_chat_model, starts
from abq_core.models.errors import ChatTemplateError
from abq_core.models.loading import LoadedModel, load_model

BOS_ID, END_OF_TEXT_ID, END_OF_TURN_ID = (CHAT_TOKENS.index(token) for token in (BOS, END_OF_TEXT, END_OF_TURN))
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3_text"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(str(chat_folder(request.param, tmp_path_factory.mktemp(request.param))))


@pytest.fixture(scope="module")
def plain(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


def test_a_text_and_a_conversation_have_bos_once(chat: LoadedModel) -> None:
    found = starts({"text": chat, "chat": chat}, {"text": "Hello", "chat": HELLO}, 4)
    hello = chat.tokenizer("Hello", add_special_tokens=False)["input_ids"]
    assert found["text"].ids == [BOS_ID, *hello]
    rendered = "<s><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert chat.tokenizer.decode(found["chat"].ids) == rendered and found["chat"].ids.count(BOS_ID) == 1
    assert found["text"].ends == {END_OF_TEXT_ID} and found["chat"].ends == {END_OF_TEXT_ID, END_OF_TURN_ID}


def test_a_text_has_no_bos_where_the_tokenizer_adds_none(plain: LoadedModel) -> None:
    assert starts({"a": plain}, "Hello", 4)["a"].ids == plain.tokenizer("Hello")["input_ids"]


def test_every_end_of_the_generation_config_ends_an_answer(chat: LoadedModel) -> None:
    config = chat.model.generation_config
    before, config.eos_token_id = config.eos_token_id, [7, 8]
    assert starts({"a": chat}, HELLO, 4)["a"].ends == {7, 8, END_OF_TEXT_ID, END_OF_TURN_ID}
    config.eos_token_id = before


def test_an_answer_stops_at_the_end_of_the_turn(chat: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = iter([70, 71, END_OF_TURN_ID, 72, 73, 74, 75, 76])
    monkeypatch.setattr("abq_core.inference.generate._choose", lambda *_: next(chosen))
    *tokens, end = generate({"a": chat}, chat, HELLO, 4)
    assert [token.id for token in tokens if isinstance(token, Token)] == [70, 71, END_OF_TURN_ID]
    assert isinstance(end, Finished) and end.complete and tokens[-1].text == ""
    assert next(chosen) == 72
    *tokens, end = generate({"a": chat}, chat, HELLO, 4)
    assert len(tokens) == 4 and isinstance(end, Finished) and not end.complete


def test_each_column_reads_its_own_conversation_and_has_its_own_kl(chat: LoadedModel) -> None:
    prompts = {"a": HELLO, "b": [*HELLO, {"role": "assistant", "content": "Hi"}, *HELLO]}
    found = starts({"a": chat, "b": chat}, prompts, 4)
    assert chat.tokenizer.decode(found["b"].ids).count("Hello") == 2
    quantized = abq.calibrate(chat, "W3A8", "rtn", segments=2, seq_len=16)
    events = generate({"a": chat, "b": quantized}, chat, prompts, 3)
    kl = {(event.column, event.index): event.kl for event in events if isinstance(event, Token)}
    assert kl["a", 0] == 0 and kl["b", 0] is not None and kl["b", 0] > 0


def test_the_python_function_chats_with_a_chat_model_unless_told_otherwise(
    chat: LoadedModel, plain: LoadedModel
) -> None:
    def expected(model: LoadedModel, prompt: object) -> str:
        events = generate({"a": model}, None, prompt, 6)  # type: ignore[arg-type]
        return "".join(event.text for event in events if isinstance(event, Token))

    assert is_chat_model(chat) and not is_chat_model(plain)
    assert abq.generate(chat, "Hello", 6) == abq.generate(chat, HELLO, 6) == expected(chat, HELLO)
    assert abq.generate(chat, "Hello", 6, chat=False) == expected(chat, "Hello")
    told = abq.generate(chat, "Hello", 6, system="Be brief.")
    assert told == expected(chat, [{"role": "system", "content": "Be brief."}, *HELLO])
    assert abq.generate(plain, "Hello", 6) == expected(plain, "Hello")
    with pytest.raises(ChatTemplateError, match="no chat template"):
        abq.generate(plain, "Hello", chat=True)
    with pytest.raises(PromptError, match="system prompt"):
        abq.generate(plain, "Hello", system="Be brief.")
    with pytest.raises(PromptError, match="Messages are answered"):
        abq.generate(chat, HELLO, chat=False)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "empty"),
        (conversation("  \n"), "empty"),
        ([*HELLO, {"role": "assistant", "content": "Hi"}], "last message"),
        ([{"role": "robot", "content": "Hello"}], "Message 1 .*robot"),
        ([*HELLO, {"role": "user"}], "Message 2"),
        ([{"role": "user", "content": ["Hello"]}], "Message 1"),
        (["Hello"], "Message 1 .*'Hello'"),
        (conversation("word " * 200), r"128 tokens\. Shorten"),
        (conversation("x" * 100_000), "characters"),
    ],
)
def test_conversations_that_cannot_be_answered_are_refused(
    chat: LoadedModel, messages: list[dict[str, str]], words: str
) -> None:
    with pytest.raises(PromptError, match=words):
        generate({"a": chat}, chat, messages, 4)
