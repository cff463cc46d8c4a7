"""Text from a user's .txt or .jsonl file.

The first 90 % are for calibration, the rest for evaluation.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from abq_core.text.documents import Split, Text
from abq_core.text.errors import DataError

_CALIBRATION_SHARE = 0.9
_MAX_FILE_BYTES = 512 << 20
_SUFFIXES = (".txt", ".jsonl")


def is_text_file(path: Path) -> bool:
    """Whether the name ends in .txt or .jsonl."""
    return path.suffix.lower() in _SUFFIXES


def check_file(path: Path) -> None:
    """Check that the file exists and is not too large. Raises DataError."""
    if not path.is_file():
        raise DataError(f"The file '{path}' does not exist. Check the path, or use 'builtin'.")
    if (size := path.stat().st_size) > _MAX_FILE_BYTES:
        raise DataError(f"'{path}' has {size:,} bytes; the limit is {_MAX_FILE_BYTES:,}. Use a part of it.")


def file_text(path: Path, split: Split) -> Text:
    """The split's part of a file: a .txt is one document, a .jsonl has one per line.

    Raises DataError.
    """
    check_file(path)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 text: byte {error.start:,} cannot be read. Convert it first."
        ) from error
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}). Check its permissions.") from error
    revision = f"sha256 {hashlib.sha256(data).hexdigest()}"
    if path.suffix.lower() == ".jsonl":
        lines = [_jsonl_text(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        cut = int(len(lines) * _CALIBRATION_SHARE)
        return Text(lines[:cut] if split == "calibration" else lines[cut:], str(path), revision)
    cut = int(len(text) * _CALIBRATION_SHARE)
    return Text([text[:cut] if split == "calibration" else text[cut:]], str(path), revision)


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
