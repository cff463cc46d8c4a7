"""The form of the Generate tab, and the command lines that do the same."""

import shlex
from typing import Any, NamedTuple

from app.web import html
from storage.run_ids import means_run

CHAT, CONTINUE = "Chat", "Continue a text"


class Form(NamedTuple):
    """The form's widgets, or their values, in the order of the events' inputs."""

    mode: Any
    prompt: Any
    message: Any
    system: Any
    columns: Any
    follow: Any
    tokens: Any
    temperature: Any
    seed: Any

    @property
    def text(self) -> str:
        """All text of the form's values that a model reads."""
        return (self.system or "") + (self.message or "") if self.mode == CHAT else self.prompt or ""


FIRST = Form(
    mode=CONTINUE,
    prompt="When an exception",
    message="What is the capital of France, and what is it known for?",
    system="",
    columns=[],
    follow=False,
    tokens=64,
    temperature=0.4,
    seed=3,
)  # the values on the first visit


def generate_command(model: str, form: Form) -> str:
    """One line per column that the command line can generate from: the model and runs.

    Columns that follow the first one have no line of their own.
    """
    columns = (form.columns or [])[: 1 if form.follow else None]
    sources = [model if column == "full" else column for column in columns if column == "full" or means_run(column)]
    options = ["--max-new-tokens", str(int(form.tokens or 0)), "--temperature", f"{form.temperature or 0:g}"]
    options += ["--seed", str(int(form.seed or 0)), "--kl"]
    if form.mode == CHAT:  # without a message: a conversation in the terminal
        system = ["--system", form.system] if (form.system or "").strip() else []
        text = ["--chat", form.message or "-", *system]
    else:
        text = ["--prompt", form.prompt or ""]
    lines = [shlex.join(["abq", "generate", source, *text, *options]) for source in sources]
    return html.command(lines) if lines else ""
