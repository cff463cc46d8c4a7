"""A chat with several models side by side: the same messages to all, and each model's answers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from markupsafe import Markup

from app.web.html import render
from app.web.page.streams import FULL_SHADE, Streams


@dataclass(frozen=True)
class Conversation:
    """The turns of one conversation, oldest first.

    Each column has a conversation of its own: it reads its own earlier answers, as it would if it were the only model.
    titles: column -> (title, lens).  follow: all columns read the answer of the first one.
    turns: a message and the answers of all columns, which grow while they stream.
    """

    model: str
    system: str
    titles: Mapping[str, tuple[str, str]]
    follow: bool = False
    turns: tuple[Streams, ...] = ()

    def asked(self, message: str, earlier: "Conversation | None") -> "Conversation":
        """This conversation with a new turn.

        The turns of `earlier` come first if it has the same model, system prompt, columns and `follow`.
        """
        goes_on = earlier is not None and replace(earlier, turns=()) == replace(self, turns=())
        turns = earlier.turns if earlier is not None and goes_on else ()
        return replace(self, turns=(*turns, Streams(message, self.titles, self.follow)))

    def messages(self) -> dict[str, list[dict[str, str]]]:
        """What each column reads: the system prompt, its own earlier turns, and the newest message."""
        first = [{"role": "system", "content": self.system}] if self.system.strip() else []
        *earlier, newest = self.turns
        found = {}
        for column in self.titles:
            said = list(first)
            for turn in earlier:
                said.append({"role": "user", "content": turn.prompt})
                said.append({"role": "assistant", "content": turn.columns[column].text})
            found[column] = [*said, {"role": "user", "content": newest.prompt}]
        return found

    @property
    def newest(self) -> Streams:
        """The turn that is being answered."""
        return self.turns[-1]

    def html(self) -> Markup:
        """The columns side by side, turn by turn."""
        return render(
            "chat.html",
            columns=list(self.newest.columns.values()),
            system=self.system.strip(),
            turns=[(turn.prompt, turn.compared()) for turn in self.turns],
            follow=self.follow,
            full_shade=FULL_SHADE,
        )
