"""A text that came with the examples: what Generate shows before anything was written here."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.services.exchange.examples import SHIPPED
from app.services.registry import BUILTIN

if TYPE_CHECKING:
    from abq_core.inference.generate import Token

FILE = SHIPPED / "text.json"


@dataclass(frozen=True)
class ExampleText:
    """What columns of the built-in model wrote elsewhere.

    columns: as of `GenerationService.generate`.  made: how, for the reader of the file.
    """

    made: dict[str, str]
    columns: list[str]
    prompt: str
    tokens: "list[Token]"

    def write(self, path: Path = FILE) -> None:
        """Write the file."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path = FILE) -> "ExampleText":
        """Read the file."""
        from abq_core.inference.generate import Candidate, Token

        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        tokens = [
            Token(**{**token, "candidates": tuple(Candidate(*one) for one in token["candidates"])})
            for token in found.pop("tokens")
        ]
        return cls(**found, tokens=tokens)

    def is_of(self, model: str, columns: Iterable[str]) -> bool:
        """Whether these columns of this model wrote the text."""
        return model == BUILTIN and list(columns) == self.columns
