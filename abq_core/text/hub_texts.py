"""Text from data sets of the Hugging Face hub, at pinned commits."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from abq_core.text.documents import Split, Text
from abq_core.text.errors import DataError

_OFFLINE_ALTERNATIVES = "Two texts need no network: 'builtin', and your own .txt or .jsonl file."
_HUB_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class HubText:
    """Text files of a hub data set.

    revision: the default commit.  kind: the format that `datasets` reads.  joined: all rows form one document.
    held_out_from: the row at which evaluation begins, if one file contains both splits.  streamed: the file is large;
    only its beginning is fetched.
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
        joined=True,  # the convention for perplexity on WikiText-2
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
    "pile": HubText(  # the first 10,000 documents of the Pile; this repository has no other split
        "NeelNanda/pile-10k",
        "127bfedcd5047750df5ccf3a12979a47bfa0bafa",
        "parquet",
        {"calibration": _PILE_FILE, "evaluation": _PILE_FILE},
        held_out_from=9_000,
    ),
}


def hub_text(
    source: str,
    name: str,
    revision: str | None,
    split: Split,
    characters: float = math.inf,
    most: int | None = None,
) -> Text:
    """The documents of a split, read row by row, from the local cache if the file is there.

    characters, most: read until there are this many characters or documents (a joined text is read whole).
    revision: None for the pinned commit.  source: how the user wrote it, for messages. Raises DataError.
    """
    text = HUB_TEXTS[name]
    cached, commit = _locate(source, text, revision, split)
    try:
        rows = _rows(text, str(cached) if cached else _fetch(text, commit, split), split)
        read = ["\n\n".join(rows)] if text.joined else _up_to_characters(islice(rows, most), characters)
    except Exception as error:
        # `datasets` and huggingface_hub raise many unrelated types for a broken line or a broken file.
        raise DataError(
            f"'{source}' cannot be read ({type(error).__name__}: {str(error)[:200]}). {_OFFLINE_ALTERNATIVES}"
        ) from error
    return Text(read, f"{name}@{commit}", commit)


def check_hub_text(source: str, name: str, revision: str | None) -> None:
    """Check that both splits are in the local cache or on the hub, in seconds. Raises DataError."""
    for split in ("calibration", "evaluation"):
        _locate(source, HUB_TEXTS[name], revision, split)


def dataset_commit(repo: str, revision: str | None = None) -> str:
    """The commit of a data set's revision (default: the newest).

    Sends one request to the hub, without retries.

    Raises DataError if the hub does not know it, ConnectionError if the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, errors

    if constants.is_offline_mode():
        raise ConnectionError("HF_HUB_OFFLINE is set")
    try:
        return str(HfApi().dataset_info(repo, revision=revision, timeout=_HUB_TIMEOUT_SECONDS).sha)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        suffix = f" with a revision '{revision}'" if revision else ""
        raise DataError(f"The hub has no data set '{repo}'{suffix}. Check the spelling.") from error
    except Exception as error:  # huggingface_hub passes on the errors of its HTTP library
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _locate(source: str, text: HubText, revision: str | None, split: Split) -> tuple[Path | None, str]:
    """The split's file in the local cache (None if it must be fetched) and its commit."""
    from huggingface_hub import try_to_load_from_cache

    file, requested = text.files[split], revision or text.revision
    cached = try_to_load_from_cache(text.repo, file, revision=requested, repo_type="dataset")
    if isinstance(cached, str):
        return Path(cached), Path(cached.removesuffix(file)).name
    try:
        return None, dataset_commit(text.repo, requested)
    except ConnectionError as error:
        raise DataError(
            f"'{source}' is not on this machine, and the hub cannot be reached ({str(error)[:120]}). "
            f"{_OFFLINE_ALTERNATIVES}"
        ) from error


def _fetch(text: HubText, commit: str, split: Split) -> str:
    """A location that `datasets` can open.

    The address of a large file, or the local path of a small one, downloaded here.
    """
    from huggingface_hub import hf_hub_download

    if text.streamed:
        return f"hf://datasets/{text.repo}@{commit}/{text.files[split]}"
    return str(hf_hub_download(text.repo, text.files[split], revision=commit, repo_type="dataset"))


def _rows(text: HubText, location: str, split: Split) -> Iterator[str]:
    """The texts of the split's rows."""
    from datasets import load_dataset

    rows = load_dataset(text.kind, data_files=location, split="train", streaming=True)
    if text.held_out_from is not None:
        rows = rows.skip(text.held_out_from) if split == "evaluation" else rows.take(text.held_out_from)
    return (row["text"] for row in rows)


def _up_to_characters(texts: Iterable[str], characters: float) -> list[str]:
    """The first texts, up to and including the one that reaches `characters` in total."""
    chosen: list[str] = []
    remaining = characters
    for text in texts:
        chosen.append(text)
        remaining -= len(text)
        if remaining <= 0:
            break
    return chosen
