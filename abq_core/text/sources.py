"""Text sources by name: the built-in text, hub data sets, and files.

`segments.py` tokenizes and cuts these texts. This module imports no torch, so that a form can check a source quickly.
"""

import math
import platform
import re
from pathlib import Path

from abq_core.builtin.corpus import documents
from abq_core.text.documents import Split, Text
from abq_core.text.errors import DataError
from abq_core.text.hub_texts import HUB_TEXTS, check_hub_text, hub_text
from abq_core.text.text_files import check_file, file_text, is_text_file
from abq_core.user_files import user_path

BUILTIN_TEXT = "builtin"
BUILTIN_TRAIN_TEXT = "builtin-train"  # calibrates on the built-in model's training split; same evaluation split
NAMES = (BUILTIN_TEXT, BUILTIN_TRAIN_TEXT, *HUB_TEXTS)
CHOICES = f"{', '.join(NAMES)}, or a .txt or .jsonl file"
_REVISION = re.compile(r"\w[\w./-]{0,99}")


def is_name(source: str) -> bool:
    """True for one of NAMES, and for a hub data set with a revision; False for a path."""
    if source in NAMES:
        return True
    name, at, revision = source.partition("@")
    return bool(at) and name in HUB_TEXTS and not is_text_file(Path(revision))


def check_source(source: str) -> None:
    """Check that `source` can be read on this machine now, in seconds. Raises DataError."""
    name, revision = _parse(source)
    if name in HUB_TEXTS:
        check_hub_text(source, name, revision)
    elif name not in NAMES:
        check_file(_file_path(name))


def read_text(source: str, split: Split, characters: float = math.inf, most: int | None = None) -> Text:
    """The documents of a split. Only files have the split "whole".

    source: one of NAMES, "name@revision" for a hub data set, or the path of a .txt file (one document) or a .jsonl file
    with a field "text" (one document per line), whose first 90 % are for calibration.
    characters, most: for hub data sets, read until there are this many characters or documents.
    Raises DataError.
    """
    name, revision = _parse(source)
    if name in HUB_TEXTS:
        return hub_text(source, name, revision, split, characters, most)
    if name in NAMES:
        part = "train" if name == BUILTIN_TRAIN_TEXT and split == "calibration" else split
        return Text([document.text for document in documents(part)], name, f"Python {platform.python_version()}")
    return file_text(_file_path(name), split)


def _parse(source: str) -> tuple[str, str | None]:
    """The name or path, and the revision of a hub data set; None for its pinned commit."""
    name, at, revision = source.partition("@")
    if name not in HUB_TEXTS:
        return source, None
    if at and not _REVISION.fullmatch(revision):
        raise DataError(
            f"'{source}' has an invalid revision: write {name}@ and a commit, a tag or a branch of its data set."
        )
    return name, revision or None


def _file_path(name: str) -> Path:
    path = user_path(name, DataError)
    if not is_text_file(path):
        raise DataError(f"The text '{path}' is not known: use {CHOICES}.")
    return path
