"""Text from a user's .txt or .jsonl file.

The first 90 % are for calibration, the rest for evaluation. A model that was not calibrated on it can read the whole.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from abq_core.text.documents import Split, Text
from abq_core.text.errors import DataError
from abq_core.user_files import UserFileError, read_user_text, require_readable

_CALIBRATION_SHARE = 0.9
_MAX_FILE_BYTES = 512 << 20
_BYTE_ORDER_MARK = "\ufeff"
_DOCUMENTS = ".jsonl"
_SUFFIXES = (".txt", _DOCUMENTS)


def is_text_file(path: Path) -> bool:
    """Whether the name ends in .txt or .jsonl."""
    return path.suffix.lower() in _SUFFIXES


def holds_documents(name: str) -> bool:
    """Whether this is the name of a file with one document per line."""
    return Path(name).suffix.lower() == _DOCUMENTS


def check_file(path: Path) -> None:
    """Check that this is a regular file that is not too large. Raises DataError."""
    try:
        require_readable(path, _MAX_FILE_BYTES)
    except UserFileError as error:
        raise DataError(f"{error} The text 'builtin' needs no file.") from error


def file_text(path: Path, split: Split) -> Text:
    """The split's part of a file: a .txt is one document, a .jsonl has one per line.

    Raises DataError.
    """
    text = read_user_text(path, _MAX_FILE_BYTES, DataError)
    revision = f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"
    if holds_documents(path.name):
        numbered = enumerate(text.removeprefix(_BYTE_ORDER_MARK).split("\n"), 1)  # strings may hold other line ends
        lines = [_jsonl_text(path, number, line) for number, line in numbered if line.strip()]
        return Text(lines[_part(split, len(lines))], str(path), revision)
    return Text([text[_part(split, len(text))]], str(path), revision)


def _part(split: Split, length: int) -> slice:
    cut = int(length * _CALIBRATION_SHARE)
    return {"calibration": slice(cut), "evaluation": slice(cut, None), "whole": slice(None)}[split]


def _jsonl_text(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"Line {number} of '{path}' is not JSON. Each line must be an object with a field 'text'."
        ) from error
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        raise DataError(f"Line {number} of '{path}' has no field 'text' that contains a string.")
    return str(row["text"])
