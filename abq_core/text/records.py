"""The record of exactly which tokens a run read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from abq_core.text.documents import Split
from abq_core.text.errors import DataError


@dataclass(frozen=True)
class TextRecord:
    """Exactly which tokens were read; `segments.segments_from_record` reads them again.

    source, revision: as in `documents.Text`.  documents, tokens: how many the whole split has.  windows: indices of the
    chosen windows of seq_len tokens.  sha256: of the windows' token ids, row by row, as little-endian int64.
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

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` reads it back to an equal record."""
        return {**asdict(self), "windows": list(self.windows)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TextRecord":
        """Read a dictionary of `to_dict`. Raises DataError."""
        try:
            return cls(**{**data, "windows": tuple(data["windows"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"This record of a text cannot be read ({error}): another version wrote it.") from error
