"""Render chat templates, as a process with limits: `python -P render_script.py SECONDS BYTES`.

Reads one JSON object from stdin: `template`, `variables`, `conversations` (keyword arguments of each rendering) and
`limit`, the most characters of a result. Prints a JSON list with {"text": ...} or {"error": ...} for each conversation.
A template that exceeds a limit of time or memory ends the process.

The environment is that of transformers' `apply_chat_template`; tests/abq_core/models/chat/test_template.py compares.
"""

import json
import sys
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from abq_core.models.checks.tokenizer_trial import set_limits


class Generation(Extension):
    """The tag `{% generation %}`, which marks what a model writes. Its body is rendered, and the marks are dropped."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """The body as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class PlainNamespace(Namespace):
    """A namespace that stores no names with a leading underscore."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *others = args
        attributes = dict(*others, **values)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"A chat template cannot store the attribute {name!r}.")


def raise_exception(message: object) -> None:
    """What templates call for messages that they do not accept."""
    raise TemplateError(str(message))


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja's sandbox with the functions that chat templates use."""
    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = to_json
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    sandbox.globals["dict"] = lambda *args, **values: dict(*args, **values)
    sandbox.globals["namespace"] = PlainNamespace
    return sandbox


def render(template: Template, variables: dict[str, Any], limit: int) -> dict[str, str]:
    """One conversation as {"text": ...}, or the reason why it cannot be rendered as {"error": ...}."""
    pieces, length = list[str](), 0
    try:
        for piece in template.generate(**variables):
            pieces.append(piece)
            length += len(piece)
            if length > limit:
                return {"error": f"it writes more than {limit:,} characters"}
    except MemoryError:
        raise
    except Exception as error:
        return {"error": _reason(error)}
    return {"text": "".join(pieces)}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text if type(error) is TemplateError and text else f"{type(error).__name__}: {text}"


def main(seconds: str, memory: str) -> None:
    """Render the conversations of one request."""
    set_limits(float(seconds), int(memory))
    request = json.load(sys.stdin)
    conversations = request["conversations"]
    try:
        template = environment().from_string(request["template"])
    except MemoryError:
        raise
    except Exception as error:
        results = [{"error": _reason(error)}] * len(conversations)
    else:
        results = [render(template, {**request["variables"], **one}, request["limit"]) for one in conversations]
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
