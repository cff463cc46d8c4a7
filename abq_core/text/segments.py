"""Token segments of a text, and the record of exactly which ones.

Four steps: `sources.read_text` reads documents, `_token_stream` joins them (how a document ends in tokens is decided
there), `_choose_windows` selects windows (the sampling protocol), `_with_prefix` lets each begin as the model expects.
"""

import math
import random
from typing import Any, get_args

import torch
from torch import Tensor

from abq_core.models.tokenizer import encode, text_prefix
from abq_core.text.documents import Split
from abq_core.text.errors import DataError, ShortTextError
from abq_core.text.paper import paper_segments
from abq_core.text.records import TextRecord, ids_sha256
from abq_core.text.sources import read_text

SHORTEST_EVALUATION = (2, 8)  # segments, and tokens of each
_CHARACTERS_PER_TOKEN = 16  # an upper bound on the average of any tokenizer
_CHARACTERS_AT_ONCE = 1 << 18  # encoded at once when tokens are only counted
_TEXTS_PER_BATCH = 64  # tokenizers and Python lists need many times a text's size


def segments(source: str, tokenizer: Any, count: int, seq_len: int, seed: int, split: Split) -> Tensor:
    """Choose segments, (count, seq_len) int64: `recorded_segments` without the record.

    Raises DataError.
    """
    return recorded_segments(source, tokenizer, count, seq_len, seed, split)[0]


def recorded_segments(
    source: str,
    tokenizer: Any,
    count: int | None,
    seq_len: int,
    seed: int,
    split: Split,
    prefix: tuple[int, ...] | None = None,
) -> tuple[Tensor, TextRecord]:
    """Choose `count` windows of `seq_len` tokens of a split's text.

    Returns (count, seq_len) int64 and their record.

    The documents are shuffled by `seed`, joined with the end-of-text token between two, and cut into windows without
    overlap; the windows are sampled by `seed` without replacement. Equal arguments give equal windows.
    source: as for `sources.read_text`.  count: None for every window.  prefix: the first tokens of every window, which
    are among its `seq_len`; None for what the tokenizer puts in front of a text. Raises DataError, ShortTextError.
    """
    prefix = text_prefix(tokenizer) if prefix is None else prefix
    _check(tokenizer, count, seq_len, split, len(prefix))
    rng = random.Random(seed)
    characters = math.inf if count is None else count * seq_len * _CHARACTERS_PER_TOKEN
    text = read_text(source, split, characters)
    documents = list(text.documents)
    rng.shuffle(documents)
    stream = _token_stream(documents, tokenizer)
    body = seq_len - len(prefix)
    windows = _choose_windows(source, split, len(stream), count, body, rng)
    chosen = _with_prefix(prefix, stream[: len(stream) // body * body].view(-1, body)[windows])
    record = TextRecord(
        source=text.source,
        revision=text.revision,
        split=split,
        seed=seed,
        documents=len(documents),
        tokens=len(stream),
        seq_len=seq_len,
        windows=tuple(windows),
        sha256=ids_sha256(chosen),
        prefix=prefix,
    )
    return chosen, record


def evaluation_segments(
    source: str, tokenizer: Any, count: int | None, seq_len: int, seed: int, split: Split = "evaluation"
) -> tuple[Tensor, TextRecord]:
    """Choose segments to evaluate on, as `recorded_segments`; of a shorter text, all that it has.

    count: None for every segment.  split: "evaluation", or "whole" for a file. A text without `count` segments is read
    completely: as many segments as it has, or if it has less than two, two shorter ones. Raises DataError, and
    ShortTextError for a text with less than 16 tokens.
    """
    try:
        return recorded_segments(source, tokenizer, count, seq_len, seed, split)
    except ShortTextError as short:
        fewest, shortest = SHORTEST_EVALUATION
        if short.tokens < fewest * shortest:
            raise
        if short.available < fewest:
            count, seq_len = fewest, min(seq_len, short.tokens // fewest + len(text_prefix(tokenizer)))
        else:
            count = short.available
        return recorded_segments(source, tokenizer, count, seq_len, seed, split)


def check_tokens(source: str, tokenizer: Any, count: int, seq_len: int, split: Split) -> None:
    """Check that a split has `count` segments of `seq_len` tokens, reading no more of it than necessary.

    Raises DataError, ShortTextError.
    """
    body = seq_len - len(text_prefix(tokenizer))
    needed = count * body
    documents = read_text(source, split, characters=needed * _CHARACTERS_PER_TOKEN).documents
    if sum(map(len, documents)) >= needed * _CHARACTERS_PER_TOKEN:
        return
    tokens = 0
    for document in documents:
        for start in range(0, len(document), _CHARACTERS_AT_ONCE):
            tokens += len(encode(tokenizer, [document[start : start + _CHARACTERS_AT_ONCE]], special_tokens=False)[0])
            if tokens >= needed:
                return
        tokens += 1  # the end-of-text token between two documents
    raise _short(source, split, max(tokens - 1, 0), count, body)


def segments_from_record(record: TextRecord, tokenizer: Any) -> Tensor:
    """Read the segments of a record again, (windows, seq_len) int64.

    Raises DataError if the text or the tokenizer has changed since.
    """
    if record.protocol == "paper":
        ids, current = paper_segments(record.source, tokenizer, record.seq_len, record.split)
    else:
        amount = (len(record.windows), record.seq_len, record.seed)
        ids, current = recorded_segments(record.source, tokenizer, *amount, record.split, record.prefix or ())
    if current != record:
        raise DataError(
            f"'{record.source}' has changed: its segments were recorded with {record.revision} and sha256 "
            f"{record.sha256[:12]}, and now have {current.revision} and {current.sha256[:12]}. Use the original text "
            "and tokenizer."
        )
    return ids


def _check(tokenizer: Any, count: int | None, seq_len: int, split: Split, prefix: int) -> None:
    if split not in get_args(Split):
        raise DataError(f"The split '{split}' does not exist: use calibration, evaluation or whole.")
    if (count is not None and count < 1) or seq_len < 2:
        raise DataError(f"{count} segments of {seq_len} tokens are too few: use at least 1 segment of 2 tokens.")
    if seq_len <= prefix:
        raise DataError(
            f"Segments of {seq_len} tokens have no text after the {prefix} tokens that the tokenizer puts in front of "
            "it: use longer ones."
        )
    if seq_len > tokenizer.model_max_length:
        raise DataError(
            f"Segments of {seq_len:,} tokens are longer than the model's context of {tokenizer.model_max_length:,}: "
            "use shorter ones."
        )


def _token_stream(documents: list[str], tokenizer: Any) -> Tensor:
    """All documents as one (tokens,) int64 stream, separated by the end-of-text token."""
    if not documents:
        return torch.zeros(0, dtype=torch.int64)
    separator = torch.tensor([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], dtype=torch.int64)
    pieces: list[Tensor] = []
    for start in range(0, len(documents), _TEXTS_PER_BATCH):
        for ids in encode(tokenizer, documents[start : start + _TEXTS_PER_BATCH], special_tokens=False):
            if pieces or ids:
                pieces += [separator, torch.tensor(ids, dtype=torch.int64)]
    return torch.cat([separator[:0], *pieces[1:]])


def _with_prefix(prefix: tuple[int, ...], windows: Tensor) -> Tensor:
    """A copy of the windows (count, tokens) with the prefix in front of each."""
    front = torch.tensor(prefix, dtype=torch.int64).expand(len(windows), -1)
    return torch.cat([front, windows], dim=1)


def _choose_windows(
    source: str, split: Split, tokens: int, count: int | None, body: int, rng: random.Random
) -> list[int]:
    """Sample `count` indices of windows of `body` tokens, without replacement; all of them, at least two, for None.

    Raises ShortTextError.
    """
    available = tokens // body
    if available < (SHORTEST_EVALUATION[0] if count is None else count):
        raise _short(source, split, tokens, count or SHORTEST_EVALUATION[0], body)
    count = available if count is None else count
    return rng.sample(range(available), count)


def _short(source: str, split: Split, tokens: int, count: int, body: int) -> ShortTextError:
    available = tokens // body
    return ShortTextError(
        f"The {split} text of '{source}' has {tokens:,} tokens: {available:,} segments of {body:,}, but "
        f"{count:,} were requested. Use fewer or shorter segments, or more text.",
        available,
        tokens,
    )
