"""The record of exactly which tokens a run read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from abq_core.text.documents import Split
from abq_core.text.errors import DataError


@dataclass(frozen=True)
class TextRecord:
    """Exactly which tokens were read; `segments.segments_from_record` reads them again.

    source, revision: as in `documents.Text`.  documents, tokens: how many the whole split has.  windows: indices of the
    chosen windows of seq_len tokens, prefix included.  sha256: of the windows' token ids, row by row, as little-endian
    int64.  prefix: the token ids in front of every window, such as BOS, which `tokens` does not count. None in records
    of earlier versions, which put nothing in front. Equality ignores it: the sha256 covers it.
    """

    source: str
    revision: str
    split: Split
    seed: int
    documents: int
    tokens: int
    seq_len: int
    windows: tuple[int, ...]
    sha256: str
    prefix: tuple[int, ...] | None = field(default=None, compare=False)

    @property
    def prefix_tokens(self) -> int:
        """The number of tokens in front of the text in every window."""
        return len(self.prefix or ())

    @property
    def unscored(self) -> int:
        """The number of predictions at the start of every window whose target is a token of the prefix."""
        return max(self.prefix_tokens - 1, 0)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` reads it back to an equal record."""
        prefix = None if self.prefix is None else list(self.prefix)
        return {**asdict(self), "windows": list(self.windows), "prefix": prefix}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TextRecord":
        """Read a dictionary of `to_dict`. Raises DataError."""
        try:
            prefix = data.get("prefix")
            tuples = {"windows": tuple(data["windows"]), "prefix": None if prefix is None else tuple(prefix)}
            return cls(**{**data, **tuples})
        except (KeyError, TypeError) as error:
            raise DataError(f"This record of a text cannot be read ({error}): another version wrote it.") from error
