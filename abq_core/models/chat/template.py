"""Render conversations with a model's chat template.

A template is a program that comes with a model. It therefore runs in Jinja's sandbox, in a process with limits of time,
memory and output (`render_script`), and sees only plain texts.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from abq_core.models.chat import render_script
from abq_core.models.checks.limited_process import LimitError, run_limited
from abq_core.models.errors import ChatTemplateError
from abq_core.models.tokenizer import encode

Message = Mapping[str, str]  # "role" (system, user or assistant) and "content"
Conversation = Sequence[Message]

_SECONDS = 2.0  # of processor time; real templates take milliseconds
_BYTES, _BYTES_PER_BYTE = 192 << 20, 64
_MORE_CHARACTERS, _GROWTH = 100_000, 4  # limit of a result: _GROWTH times the messages, and this
_ANSWER = "An answer of the model that ends here"  # stands for any answer, to find what follows it


class RenderedChats(NamedTuple):
    """Rendered conversations.

    texts: one per conversation, up to where the model answers; special tokens such as BOS are part of them.
    ends: ids of the special tokens that end an answer, according to the template.
    """

    texts: list[str]
    ends: frozenset[int]


def tokenizer_template(tokenizer: Any) -> str | None:
    """The chat template of a loaded tokenizer; None for a model without one."""
    declared = tokenizer.chat_template
    return declared.get("default") if isinstance(declared, dict) else declared


def render_chats(tokenizer: Any, conversations: Sequence[Conversation]) -> RenderedChats:
    """Render conversations that end with a message to the model.

    Raises ChatTemplateError for a model without a template, and for a template that fails or exceeds a limit.
    """
    template = tokenizer_template(tokenizer)
    name = tokenizer.name_or_path
    if template is None:
        raise ChatTemplateError(f"'{name}' has no chat template: it can only continue a text. Give it a plain prompt.")
    answered = [{"role": "user", "content": "A question"}, {"role": "assistant", "content": _ANSWER}]
    asked: list[dict[str, Any]] = [{"messages": list(one), "add_generation_prompt": True} for one in conversations]
    request = [*asked, {"messages": answered, "add_generation_prompt": False}]
    try:
        *results, probe = _render(template, _variables(tokenizer), request)
    except LimitError as error:
        raise ChatTemplateError(
            f"The chat template of '{name}' takes {error}. Take the template from the model's original folder, or "
            "continue a text without it."
        ) from error
    for result in results:
        if "error" in result:
            raise ChatTemplateError(
                f"The chat template of '{name}' cannot render this conversation: {result['error']}. Change the "
                "messages, or continue a text without the template."
            )
    return RenderedChats([result["text"] for result in results], _ends(tokenizer, probe.get("text", "")))


def _variables(tokenizer: Any) -> dict[str, Any]:
    """The names that a template can read besides the messages, as transformers passes them."""
    return {**tokenizer.special_tokens_map, "tools": None, "documents": None}


def _render(template: str, variables: dict[str, Any], conversations: list[dict[str, Any]]) -> list[dict[str, str]]:
    """{"text": ...} or {"error": ...} of each conversation. Raises LimitError."""
    characters = sum(len(message["content"]) for one in conversations for message in one["messages"])
    request = json.dumps(
        {
            "template": template,
            "variables": variables,
            "conversations": conversations,
            "limit": _MORE_CHARACTERS + _GROWTH * characters,
        },
        default=str,
    )
    memory = _BYTES + _BYTES_PER_BYTE * len(request)
    return json.loads(run_limited(render_script.__file__, [], _SECONDS, memory, request))


def _ends(tokenizer: Any, answered: str) -> frozenset[int]:
    """The special token right after an answer, if the template writes one."""
    _, found, following = answered.rpartition(_ANSWER)
    if not found or not following.strip():
        return frozenset()
    first = encode(tokenizer, [following.strip()], special_tokens=False)[0][0]
    added = tokenizer.added_tokens_decoder.get(first)
    return frozenset([first]) if added is not None and added.special else frozenset()
