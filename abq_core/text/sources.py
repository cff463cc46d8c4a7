"""Where text comes from: the built-in text, data sets of the Hugging Face hub at pinned revisions, a file of one's own.

Knows no tokens: `data.py` cuts what is read here into segments. Imports no torch, so that a form can check a source.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from abq_core.builtin.corpus import documents

Split = Literal["calibration", "evaluation"]

BUILTIN_TEXT = "builtin"
BUILTIN_TRAIN_TEXT = "builtin-train"  # calibrates on what the built-in model was trained on, evaluates on the rest
_FILES = "a .txt or .jsonl file"
_WITHOUT_INTERNET = f"Two texts need no internet: '{BUILTIN_TEXT}', and {_FILES} of your own."
_REVISION = re.compile(r"\w[\w./-]{0,99}")
_CALIBRATION_SHARE = 0.9  # of a file: the rest is for evaluation
_MAX_FILE_BYTES = 512 << 20
_HUB_SECONDS = 5.0  # to wait for the hub's answer to one question


class DataError(ValueError):
    """Text that is not there, cannot be read, or is too short for what was asked."""


@dataclass(frozen=True)
class HubText:
    """Text files of a data set of the hub.

    revision: the commit that is read where no other is named.  kind: how `datasets` reads the files.  joined: all rows
    are one document.  held_out_from: the row at which evaluation begins, where both splits are in one file.
    streamed: the file is large, and only its beginning is fetched.
    """

    repo: str
    revision: str
    kind: Literal["parquet", "json"]
    files: Mapping[Split, str]
    joined: bool = False
    held_out_from: int | None = None
    streamed: bool = False


_PILE_FILE = "data/train-00000-of-00001-4746b8785c874cc7.parquet"
HUB_TEXTS: Mapping[str, HubText] = {
    "wikitext2": HubText(
        "Salesforce/wikitext",
        "b08601e04326c79dfdd32d625aee71d232d685c3",
        "parquet",
        {
            "calibration": "wikitext-2-raw-v1/train-00000-of-00001.parquet",
            "evaluation": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
        },
        joined=True,  # as perplexities on it are usually measured
    ),
    "c4": HubText(
        "allenai/c4",
        "1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
        "json",
        {
            "calibration": "en/c4-train.00000-of-01024.json.gz",
            "evaluation": "en/c4-validation.00000-of-00008.json.gz",
        },
        streamed=True,
    ),
    "pile": HubText(  # the first 10,000 documents of the Pile, which has no other parts there
        "NeelNanda/pile-10k",
        "127bfedcd5047750df5ccf3a12979a47bfa0bafa",
        "parquet",
        {"calibration": _PILE_FILE, "evaluation": _PILE_FILE},
        held_out_from=9_000,
    ),
}
NAMES = (BUILTIN_TEXT, BUILTIN_TRAIN_TEXT, *HUB_TEXTS)
CHOICES = f"{', '.join(NAMES)}, or {_FILES}"


@dataclass(frozen=True)
class TextRecord:
    """Exactly which tokens were read: `data.segments_of` gives them again.

    source: as it can be given again, a hub data set with its commit.  revision: what fixes its content: the commit, the
    version of Python (built-in text) or the file's sha256.  documents, tokens: what was read in all.  windows: which
    windows of seq_len tokens were chosen.  sha256: of their ids, row by row, as little-endian int64.
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
        """Read `to_dict`'s dictionary. Raises DataError."""
        try:
            return cls(**{**data, "windows": tuple(data["windows"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"This record of a text cannot be read ({error}). It is of another version.") from error


@dataclass(frozen=True)
class Text:
    """The documents of a split, with what TextRecord says of where they come from."""

    documents: list[str]
    source: str
    revision: str


def check_source(source: str) -> None:
    """Raise DataError where no text can be had from `source` on this machine now. Takes seconds at most."""
    name, revision = _parse(source)
    if name in HUB_TEXTS:
        for split in ("calibration", "evaluation"):
            _hub_place(source, HUB_TEXTS[name], revision, split)
    elif name not in NAMES:
        _check_file(Path(name).expanduser())


def read_text(source: str, split: Split, characters: int) -> Text:
    """The documents of a split; of a hub data set that goes on, those that begin in the first so many characters.

    source: one of NAMES, "name@revision" for those of the hub, or the path of a .txt file (one document) or of a .jsonl
    file with a field "text" (one a line), whose first 90 % is for calibration. Raises DataError.
    """
    name, revision = _parse(source)
    if name in HUB_TEXTS:
        return _hub_text(source, name, revision, split, characters)
    if name in NAMES:
        part = "train" if name == BUILTIN_TRAIN_TEXT and split == "calibration" else split
        return Text([document.text for document in documents(part)], name, f"Python {platform.python_version()}")
    return _file_text(Path(name).expanduser(), split)


def dataset_commit(repo: str, revision: str | None = None) -> str:
    """The commit of a data set's revision (default: of its newest), by one question to the hub, without the retries of
    a download. Raises DataError where the hub does not know it, ConnectionError where the hub is out of reach.
    """
    from huggingface_hub import HfApi, constants, errors

    if constants.is_offline_mode():
        raise ConnectionError("HF_HUB_OFFLINE is set")
    try:
        return str(HfApi().dataset_info(repo, revision=revision, timeout=_HUB_SECONDS).sha)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        which = f" with a revision '{revision}'" if revision else ""
        raise DataError(f"The hub has no data set '{repo}'{which}. Check the spelling.") from error
    except Exception as error:  # the hub's library hands through whatever its HTTP library raises
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _parse(source: str) -> tuple[str, str | None]:
    """Name, or path, and revision; None where the pinned one is meant."""
    name, at, revision = source.partition("@")
    if name not in HUB_TEXTS:
        return source, None
    if at and not _REVISION.fullmatch(revision):
        raise DataError(f"'{source}' names no revision: write {name}@ and a commit, a tag or a branch of its data set.")
    return name, revision or None


def _hub_text(source: str, name: str, revision: str | None, split: Split, characters: int) -> Text:
    """The beginning of a hub file, from this machine's cache where it is there, read by `datasets` row by row."""
    text = HUB_TEXTS[name]
    cached, commit = _hub_place(source, text, revision, split)
    try:
        rows = _rows(text, str(cached) if cached else _fetch(text, commit, split), split)
        found = ["\n\n".join(rows)] if text.joined else _first_characters(rows, characters)
    except Exception as error:
        # `datasets` and the hub's library raise a dozen kinds of error for a broken line or a broken file.
        raise DataError(
            f"'{source}' cannot be read ({type(error).__name__}: {str(error)[:200]}). {_WITHOUT_INTERNET}"
        ) from error
    return Text(found, f"{name}@{commit}", commit)


def _hub_place(source: str, text: HubText, revision: str | None, split: Split) -> tuple[Path | None, str]:
    """The file in this machine's cache, None where it would have to be fetched, and its commit."""
    from huggingface_hub import try_to_load_from_cache

    file, wanted = text.files[split], revision or text.revision
    cached = try_to_load_from_cache(text.repo, file, revision=wanted, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached), Path(cached.removesuffix(file)).name
    try:
        return None, dataset_commit(text.repo, wanted)
    except ConnectionError as error:
        raise DataError(
            f"'{source}' is not on this machine, and the hub cannot be reached ({str(error)[:120]}). "
            f"{_WITHOUT_INTERNET}"
        ) from error


def _fetch(text: HubText, commit: str, split: Split) -> str:
    """What `datasets` opens: the address of a file to stream, or a small file that is downloaded now."""
    from huggingface_hub import hf_hub_download

    if text.streamed:
        return f"hf://datasets/{text.repo}@{commit}/{text.files[split]}"
    return str(hf_hub_download(text.repo, text.files[split], revision=commit, repo_type="dataset"))


def _rows(text: HubText, place: str, split: Split) -> Iterator[str]:
    """The texts of the split's rows."""
    from datasets import load_dataset

    rows = load_dataset(text.kind, data_files=place, split="train", streaming=True)
    if text.held_out_from is not None:
        held_out = split == "evaluation"
        rows = rows.skip(text.held_out_from) if held_out else rows.take(text.held_out_from)
    return (row["text"] for row in rows)


def _first_characters(texts: Iterable[str], characters: int) -> list[str]:
    """The first texts, up to the one that completes so many characters."""
    kept: list[str] = []
    for text in texts:
        kept.append(text)
        characters -= len(text)
        if characters <= 0:
            break
    return kept


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise DataError(f"'{path}' is no known text: use {CHOICES}.")
    if not path.is_file():
        raise DataError(f"There is no file '{path}'. Check the path, or use '{BUILTIN_TEXT}'.")
    if (size := path.stat().st_size) > _MAX_FILE_BYTES:
        raise DataError(f"'{path}' has {size:,} bytes; at most {_MAX_FILE_BYTES:,} are read. Use a part of it.")


def _file_text(path: Path, split: Split) -> Text:
    """The split's part of a .txt file (one document) or .jsonl file (one a line)."""
    _check_file(path)
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
        raise DataError(f"Line {number} of '{path}' has no field 'text' with a string in it.")
    return str(row["text"])
