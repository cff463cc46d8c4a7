"""Generated text in columns, with the first differing token marked.

Each token is shaded by its KL divergence, and carries its most likely candidates.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from app.web.html import render

if TYPE_CHECKING:
    from abq_core.inference.generate import Finished, Token

FULL_SHADE_NATS = 1.0  # a token with this KL divergence or more has the strongest shade
FULL_SHADE = f"{FULL_SHADE_NATS:g}"
STRONGEST_ALPHA = 0.55
SHADE = "220,38,38"


class ShownToken(NamedTuple):
    """A token as the template shows it. kl: nats, None without a full-precision model.

    tint: r,g,b,alpha.  mark: "first" for the first token that differs; of a column that follows another, "other" for
    every token that it would not have chosen; else "".  candidates: JSON of [text, probability, whether it is the
    token], "" without.
    """

    text: str
    kl: str | None
    tint: str
    mark: str
    candidates: str


@dataclass
class Column:
    """The text of one column, and the index of its first token that differs.

    The first column is the reference.  follows: the column reads the text of the first one.  recorded: it was written
    elsewhere, and is complete.
    """

    name: str
    title: str
    lens: str
    follows: bool = False
    recorded: bool = False
    generated: list["Token"] = field(default_factory=list)
    finished: "Finished | None" = None
    first_difference: int | None = None

    @property
    def tokens(self) -> list[ShownToken]:
        """The generated tokens as the page shows them."""
        return [
            _shown(token, "first" if index == self.first_difference else "other" if token.chosen != token.id else "")
            for index, token in enumerate(self.generated)
        ]

    @property
    def other_choices(self) -> int:
        """The number of tokens that the column would not have chosen."""
        return sum(token.chosen != token.id for token in self.generated)

    @property
    def text(self) -> str:
        """The generated text."""
        return "".join(token.text for token in self.generated)

    @property
    def mean_kl(self) -> float | None:
        """Mean KL divergence to full precision in nats."""
        known = [token.kl for token in self.generated if token.kl is not None]
        return sum(known) / len(known) if known else None

    def compare(self, reference: Sequence["Token"]) -> None:
        """Find the first token that differs from the reference column."""
        pairs = enumerate(zip(self.generated, reference, strict=False))
        self.first_difference = next((index for index, (one, other) in pairs if one.id != other.id), None)


class Streams:
    """All columns, filled from generation events. The first column is the reference."""

    def __init__(
        self, prompt: str, titles: Mapping[str, tuple[str, str]], follow: bool = False, recorded: bool = False
    ) -> None:
        """titles: column -> (title, lens).  follow: all columns read the text of the first one.

        recorded: the events are those of a text that was written elsewhere.
        """
        self.prompt, self.follow = prompt, follow
        self.columns = {
            name: Column(name, title, lens, follow and index > 0, recorded)
            for index, (name, (title, lens)) in enumerate(titles.items())
        }

    def add(self, event: "Token | Finished") -> None:
        """Add one event of a generation."""
        column: Any = self.columns[event.column]
        if hasattr(event, "tokens_per_second"):
            column.finished = event
        else:
            column.generated.append(event)

    def html(self) -> Markup:
        """The columns side by side with their speeds."""
        return render(
            "streams.html", columns=self.compared(), prompt=self.prompt, follow=self.follow, full_shade=FULL_SHADE
        )

    def summary(self) -> Markup:
        """One sentence about the columns after the first."""
        return render("stream_summary.html", columns=self.compared()[1:])

    def compared(self) -> list[Column]:
        """The columns, each compared with the first."""
        columns = list(self.columns.values())
        for column in columns:
            column.compare(columns[0].generated)
        return columns


def _shown(token: "Token", mark: str) -> ShownToken:
    listed = [[one.text, round(one.probability, 4), one.id == token.id] for one in token.candidates]
    candidates = json.dumps(listed, ensure_ascii=False, separators=(",", ":")) if listed else ""
    if token.kl is None:
        return ShownToken(token.text, None, "", mark, candidates)
    return ShownToken(token.text, f"{token.kl:.4f}", tint(token.kl), mark, candidates)


def tint(kl: float) -> str:
    """The shade of a KL divergence in nats: r,g,b,alpha."""
    alpha = STRONGEST_ALPHA * min(1.0, math.sqrt(max(kl, 0.0) / FULL_SHADE_NATS))
    return f"{SHADE},{alpha:.2f}"
