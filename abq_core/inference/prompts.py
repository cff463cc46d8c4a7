"""Prompts: a text to continue or a conversation to answer, as the token ids that a model reads first."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from abq_core.inference.errors import PromptError
from abq_core.models.chat.template import Conversation, render_chats, tokenizer_template
from abq_core.models.loading import LoadedModel
from abq_core.models.tokenizer import encode, text_prefix

Prompt = str | Conversation  # a text is continued, a conversation is rendered with the chat template and answered
ROLES = ("system", "user", "assistant")

_CHARACTERS_PER_TOKEN = 64  # upper limit; a longer prompt cannot fit and is refused before it is tokenized


class Start(NamedTuple):
    """What a model reads first.

    ids: never empty.  ends: the tokens that end the text; they are not part of it.
    """

    ids: list[int]
    ends: frozenset[int]


def starts(
    columns: Mapping[str, LoadedModel], prompt: Prompt | Mapping[str, Prompt], max_new_tokens: int
) -> dict[str, Start]:
    """The start of every column. prompt: one for all columns, or one per column.

    Raises PromptError for a prompt that is empty, malformed or too long, ChatTemplateError, ModelError.
    """
    prompts = prompt if isinstance(prompt, Mapping) else dict.fromkeys(columns, prompt)
    chats = _rendered(
        {name: (columns[name], _checked(one)) for name, one in prompts.items() if not isinstance(one, str)}
    )
    found = {}
    for name, model in columns.items():
        one = prompts[name]
        if isinstance(one, str):
            start = Start(_tokens(model, one, text_prefix(model.tokenizer)), end_tokens(model))
        else:
            text, ends = chats[name]  # the text has the special tokens that the template wants, BOS among them
            start = Start(_tokens(model, text), end_tokens(model) | ends)
        _check_length(model, start.ids, max_new_tokens)
        found[name] = start
    return found


def conversation(message: str, system: str = "") -> list[dict[str, str]]:
    """A conversation of one message, after a system prompt if there is one."""
    first = [{"role": "system", "content": system}] if system.strip() else []
    return [*first, {"role": "user", "content": message}]


def is_chat_model(model: LoadedModel) -> bool:
    """Whether the model has a chat template."""
    return tokenizer_template(model.tokenizer) is not None


def end_tokens(model: LoadedModel) -> frozenset[int]:
    """The end-of-text ids of a model."""
    named = getattr(model.model.generation_config, "eos_token_id", None)
    ids = [*(named if isinstance(named, list) else [named]), model.tokenizer.eos_token_id]
    return frozenset(token for token in ids if token is not None)


def _rendered(
    chats: Mapping[str, tuple[LoadedModel, Conversation]],
) -> dict[str, tuple[str, frozenset[int]]]:
    """Text and end tokens by column; one process renders all conversations of a tokenizer."""
    found = {}
    tokenizers = {id(model.tokenizer): model.tokenizer for model, _ in chats.values()}
    for key, tokenizer in tokenizers.items():
        same = {name: one for name, (model, one) in chats.items() if id(model.tokenizer) == key}
        texts, ends = render_chats(tokenizer, list(same.values()))
        found.update({name: (text, ends) for name, text in zip(same, texts, strict=True)})
    return found


def _checked(messages: Sequence[Mapping[str, str]]) -> Conversation:
    """The messages, once they are known to be texts with a role. Raises PromptError."""
    for number, message in enumerate(messages, 1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise PromptError(
                f"Message {number} of the conversation is {str(message)[:60]!r}: use a mapping with a role of "
                f"{', '.join(ROLES)} and a text as content."
            )
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise PromptError("The message is empty: the last message of a conversation is a text of the user.")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _tokens(model: LoadedModel, text: str, prefix: Sequence[int] = ()) -> list[int]:
    """The ids of a text after those of the prefix. Raises PromptError if it is empty or cannot fit."""
    if not text.strip():
        raise PromptError("The prompt is empty: enter some text.")
    if len(text) > model.context * _CHARACTERS_PER_TOKEN:
        raise PromptError(
            f"The prompt has {len(text):,} characters, too many for a context of {model.context:,} tokens."
        )
    ids = encode(model.tokenizer, [text], special_tokens=False)[0]
    if not ids:
        raise PromptError(f"The prompt {text[:40]!r} contains no tokens of '{model.ref}': enter other text.")
    return [*prefix, *ids]


def _check_length(model: LoadedModel, ids: Sequence[int], max_new_tokens: int) -> None:
    if len(ids) + max_new_tokens > model.context:
        raise PromptError(
            f"The prompt has {len(ids):,} tokens; with {max_new_tokens:,} new ones it exceeds the context of "
            f"'{model.ref}', {model.context:,} tokens. Shorten the prompt, or generate fewer tokens."
        )
