"""Generated text as it comes: columns side by side, the first differing token marked, each token tinted by its KL."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from app import formatting
from app.web.tabs import words

if TYPE_CHECKING:
    from abq_core.inference.generate import Finished, Token

TINT_AT_NATS = 1.0  # KL from which on a token has the full tint
STRONGEST = 0.55
TINT = "220,38,38"


@dataclass
class Column:
    """One column so far."""

    title: str
    lens: str
    tokens: list["Token"] = field(default_factory=list)
    finished: "Finished | None" = None


class Streams:
    """All columns, fed by events and shown as HTML. Columns are compared with the first one."""

    def __init__(self, prompt: str, titles: Mapping[str, tuple[str, str]]) -> None:
        """titles: column -> (title, lens)."""
        self.prompt = prompt
        self.columns = {name: Column(title, lens) for name, (title, lens) in titles.items()}

    def add(self, event: "Token | Finished") -> None:
        """Take one event of `Services.generate`."""
        column = self.columns[event.column]
        if hasattr(event, "tokens_per_second"):
            column.finished = event  # type: ignore[assignment]
        else:
            column.tokens.append(event)  # type: ignore[arg-type]

    def first_difference(self, name: str) -> int | None:
        """Index of the first token that is not the first column's, None while all are the same."""
        reference = next(iter(self.columns.values())).tokens
        for index, (own, other) in enumerate(zip(self.columns[name].tokens, reference, strict=False)):
            if own.id != other.id:
                return index
        return None

    def html(self) -> str:
        """The columns with their numbers below the title."""
        parts = [self._column(name) for name in self.columns]
        key = (
            f'<p class="abq-key"><i></i><span>0 to {TINT_AT_NATS:g} nats or more of {words.term("KL")} to full '
            "precision; point at a token to read its value. \N{NOT EQUAL TO} marks the first token that differs from "
            "the first column.</span></p>"
        )
        return f'<div class="abq-streams" style="--columns:{len(parts)}">{"".join(parts)}</div>{key}'

    def summary(self) -> str:
        """One sentence about the columns after the first."""
        said = []
        for name, column in list(self.columns.items())[1:]:
            at = self.first_difference(name)
            place = "writes the same text" if at is None else f"first differs at token {at + 1}"
            kl = [token.kl for token in column.tokens if token.kl is not None]
            mean = f", mean KL {formatting.nats(sum(kl) / len(kl))}" if kl else ""
            said.append(f'<b class="abq-{column.lens}">{escape(column.title)}</b> {place}{mean}')
        return "; ".join(said) + "." if said else ""

    def _column(self, name: str) -> str:
        column, first = self.columns[name], self.first_difference(name)
        spans = "".join(_span(token, index == first) for index, token in enumerate(column.tokens))
        return (
            f'<section class="abq-stream abq-{column.lens}" data-column="{escape(name)}">'
            f'<h3>{escape(column.title)}</h3><p class="abq-numbers">{_numbers(column)}</p>'
            f'<p class="abq-text"><span class="abq-prompt">{escape(self.prompt)}</span>{spans}</p></section>'
        )


def _span(token: "Token", first: bool) -> str:
    mark = ' class="abq-first"' if first else ""
    if token.kl is None:
        return f"<span{mark}>{escape(token.text)}</span>"
    strength = STRONGEST * min(1.0, math.sqrt(max(token.kl, 0.0) / TINT_AT_NATS))
    tip = f"token {token.index + 1}: KL {formatting.nats(token.kl)}"
    return (
        f'<span{mark} data-kl="{token.kl:.4f}" title="{tip}" style="background:rgba({TINT},{strength:.2f})">'
        f"{escape(token.text)}</span>"
    )


def _numbers(column: Column) -> str:
    end = column.finished
    if end is None:
        return f"{len(column.tokens)} tokens&hellip;" if column.tokens else "waiting for the first token&hellip;"
    return (
        f"{formatting.tokens_per_second(end.tokens_per_second)}, "
        f"first token after {formatting.seconds(end.first_token_seconds)}<br>"
        f"{formatting.size(end.weight_bytes)} of weights in its linears"
    )
