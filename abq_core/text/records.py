"""The record of exactly which tokens a run read."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from abq_core.text.documents import Split
from abq_core.text.errors import DataError

if TYPE_CHECKING:  # the command line formats records before it needs torch
    from torch import Tensor

Protocol = Literal["windows", "paper"]  # how a text becomes windows: `segments.py`, `paper.py`


@dataclass(frozen=True)
class TextRecord:
    """Exactly which tokens were read; `segments.segments_from_record` reads those of a calibration again.

    source, revision: as in `documents.Text`.  documents, tokens: how many the whole split has.  windows: indices of the
    chosen windows of seq_len tokens, prefix included.  sha256: of the windows' token ids, row by row, as little-endian
    int64.  prefix: the token ids in front of every window, such as BOS, which `tokens` does not count. None in records
    of earlier versions, which put nothing in front. Equality ignores it: the sha256 covers it.  protocol: with
    "paper" the prefix precedes the first window only.
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
    protocol: Protocol = "windows"

    @property
    def prefix_tokens(self) -> int:
        """The number of tokens in front of the text in every window."""
        return 0 if self.protocol == "paper" else len(self.prefix or ())

    @property
    def unscored(self) -> int:
        """The number of predictions at the start of every window whose target is a token of the prefix."""
        return max(self.prefix_tokens - 1, 0)

    @property
    def text_tokens(self) -> int:
        """The number of tokens of the text in all windows together."""
        once = len(self.prefix or ()) if self.protocol == "paper" else 0
        return len(self.windows) * (self.seq_len - self.prefix_tokens) - once

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


def ids_sha256(ids: "Tensor") -> str:
    """The sha256 of token ids (windows, tokens) int64, row by row, as little-endian int64."""
    return hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
