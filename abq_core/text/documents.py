"""The documents of one split of a text, before they become tokens."""

from dataclasses import dataclass
from typing import Literal

Split = Literal["calibration", "evaluation", "whole"]  # whole: both, of a file


@dataclass(frozen=True)
class Text:
    """The documents of a split.

    source: a name that reads the same text again; for a hub data set it includes the commit.  revision: identifies the
    content: a commit, a Python version or a file's sha256.
    """

    documents: list[str]
    source: str
    revision: str
