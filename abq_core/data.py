"""Text as token segments, for calibration and evaluation: the built-in text, WikiText-2, C4, or a file of one's own."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from abq_core.builtin.corpus import documents

Split = Literal["calibration", "evaluation"]

BUILTIN_TEXT = "builtin"
_HUB_SOURCES = ("wikitext2", "c4")
_C4_FILES = {
    "calibration": "en/c4-train.00000-of-01024.json.gz",
    "evaluation": "en/c4-validation.00000-of-00008.json.gz",
}
_CALIBRATION_SHARE = 0.9  # of a file: the rest is for evaluation
_MAX_FILE_BYTES = 512 << 20
_CHARACTERS_PER_TOKEN = 16  # more than any tokenizer packs into one on average


class DataError(ValueError):
    """Text that is not there, cannot be read, or is too short for what was asked."""


def segments(source: str, tokenizer: Any, count: int, seq_len: int, seed: int, split: Split) -> Tensor:
    """(count, seq_len) int64: windows of the split's text, chosen by `seed` without replacement.

    The documents are shuffled by `seed`, joined with the end-of-text token between them, and cut into windows that do
    not overlap. The same arguments give the same windows. source: "builtin", "wikitext2", "c4", or the path of a .txt
    file or of a .jsonl file with a field "text" (their first 90 % is for calibration, the rest for evaluation).
    Raises DataError.
    """
    if split not in ("calibration", "evaluation"):
        raise DataError(f"The split '{split}' does not exist: use calibration or evaluation.")
    if count < 1 or seq_len < 2:
        raise DataError(f"{count} segments of {seq_len} tokens make no sense: use at least 1 segment of 2 tokens.")
    if seq_len > tokenizer.model_max_length:
        raise DataError(
            f"Segments of {seq_len:,} tokens are longer than the model's context of {tokenizer.model_max_length:,}: "
            "use shorter ones."
        )
    rng = random.Random(seed)
    texts = list(_texts(source, split, characters=count * seq_len * _CHARACTERS_PER_TOKEN))
    rng.shuffle(texts)
    stream = _tokens(texts, tokenizer)
    available = len(stream) // seq_len
    if available < count:
        raise DataError(
            f"The {split} text of '{source}' has {len(stream):,} tokens: {available:,} segments of {seq_len:,}, but "
            f"{count:,} are asked for. Use fewer or shorter segments, or more text."
        )
    chosen = rng.sample(range(available), count)
    return stream[: available * seq_len].view(available, seq_len)[chosen].clone()


def _tokens(texts: list[str], tokenizer: Any) -> Tensor:
    """All texts as one (tokens,) int64 stream, the end-of-text token between two of them."""
    if not texts:
        return torch.zeros(0, dtype=torch.int64)
    separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids: list[int] = []
    for encoded in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        ids += [*separator, *encoded] if ids else encoded
    return torch.tensor(ids, dtype=torch.int64)


def _texts(source: str, split: Split, characters: int) -> Iterable[str]:
    """The documents of a split; C4, which has no end, stops after so many characters."""
    if source == BUILTIN_TEXT:
        return [document.text for document in documents(split)]
    if source in _HUB_SOURCES:
        return _hub_texts(source, split, characters)
    return _file_texts(Path(source).expanduser(), split)


def _hub_texts(source: str, split: Split, characters: int) -> list[str]:
    """WikiText-2 as one document, as perplexities on it are usually measured, or the first documents of a C4 file."""
    try:
        from datasets import load_dataset

        if source == "wikitext2":
            part = "train" if split == "calibration" else "test"
            return ["\n\n".join(load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=part)["text"])]
        rows = load_dataset("allenai/c4", data_files=_C4_FILES[split], split="train", streaming=True)
        return _first_characters((row["text"] for row in rows), characters)
    except Exception as error:
        # `datasets` raises a dozen kinds of error for "no network"; all of them end here.
        raise DataError(
            f"'{source}' is neither on this machine nor can it be downloaded ({type(error).__name__}). Use 'builtin', "
            "which is always there, or a .txt or .jsonl file."
        ) from error


def _first_characters(texts: Iterable[str], characters: int) -> list[str]:
    """The first texts, up to the one that completes so many characters."""
    kept: list[str] = []
    for text in texts:
        kept.append(text)
        characters -= len(text)
        if characters <= 0:
            break
    return kept


def _file_texts(path: Path, split: Split) -> list[str]:
    """The split's part of a .txt file (one document) or .jsonl file (one a line)."""
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise DataError(f"'{path}' is no known data: use builtin, wikitext2, c4, or a .txt or .jsonl file.")
    if not path.is_file():
        raise DataError(f"There is no file '{path}'. Check the path, or use 'builtin'.")
    if (size := path.stat().st_size) > _MAX_FILE_BYTES:
        raise DataError(f"'{path}' has {size:,} bytes; at most {_MAX_FILE_BYTES:,} are read. Use a part of it.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{path}' is not UTF-8 text: byte {error.start:,} cannot be read. Convert it first."
        ) from error
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror}). Check its permissions.") from error
    if path.suffix.lower() == ".jsonl":
        lines = [_jsonl_text(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        cut = int(len(lines) * _CALIBRATION_SHARE)
        return lines[:cut] if split == "calibration" else lines[cut:]
    cut = int(len(text) * _CALIBRATION_SHARE)
    return [text[:cut] if split == "calibration" else text[cut:]]


def _jsonl_text(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"Line {number} of '{path}' is not JSON. Each line must be an object with a field 'text'."
        ) from error
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        raise DataError(f"Line {number} of '{path}' has no field 'text' with a string in it.")
    return str(row["text"])
