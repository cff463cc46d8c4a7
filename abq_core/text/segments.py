"""Text as token segments, for calibration and evaluation, and the record of exactly which ones. sources.py reads it."""

import hashlib
import random
from typing import Any

import torch
from torch import Tensor

from abq_core.text.sources import DataError, Split, TextRecord, read_text

_CHARACTERS_PER_TOKEN = 16  # more than any tokenizer packs into one on average
_TEXTS_AT_ONCE = 64  # what a tokenizer and Python's lists make of a text is many times its size


class ShortTextError(DataError):
    """A text with fewer tokens than were asked for. `available`: the segments that it has."""

    def __init__(self, message: str, available: int) -> None:
        super().__init__(message)
        self.available = available


def segments(source: str, tokenizer: Any, count: int, seq_len: int, seed: int, split: Split) -> Tensor:
    """`recorded_segments` without the record."""
    return recorded_segments(source, tokenizer, count, seq_len, seed, split)[0]


def recorded_segments(
    source: str, tokenizer: Any, count: int, seq_len: int, seed: int, split: Split
) -> tuple[Tensor, TextRecord]:
    """(count, seq_len) int64: windows of the split's text, chosen by `seed` without replacement, and which they are.

    The documents are shuffled by `seed`, joined with the end-of-text token between them, and cut into windows that do
    not overlap. The same arguments give the same windows. source: as `sources.read_text` takes it. Raises DataError.
    """
    _check(tokenizer, count, seq_len, split)
    rng = random.Random(seed)
    text = read_text(source, split, characters=count * seq_len * _CHARACTERS_PER_TOKEN)
    documents = list(text.documents)
    rng.shuffle(documents)
    stream = _tokens(documents, tokenizer)
    available = len(stream) // seq_len
    if available < count:
        raise ShortTextError(
            f"The {split} text of '{source}' has {len(stream):,} tokens: {available:,} segments of {seq_len:,}, but "
            f"{count:,} are asked for. Use fewer or shorter segments, or more text.",
            available,
        )
    windows = rng.sample(range(available), count)
    chosen = stream[: available * seq_len].view(available, seq_len)[windows].clone()
    record = TextRecord(
        source=text.source,
        revision=text.revision,
        split=split,
        seed=seed,
        documents=len(documents),
        tokens=len(stream),
        seq_len=seq_len,
        windows=tuple(windows),
        sha256=_sha256(chosen),
    )
    return chosen, record


def segments_of(record: TextRecord, tokenizer: Any) -> Tensor:
    """The segments that `record` is of, read again. Raises DataError where the text or the tokenizer changed since."""
    ids, now = recorded_segments(
        record.source, tokenizer, len(record.windows), record.seq_len, record.seed, record.split
    )
    if now != record:
        raise DataError(
            f"'{record.source}' no longer gives the segments that were recorded ({record.revision}, sha256 "
            f"{record.sha256[:12]}) but others ({now.revision}, {now.sha256[:12]}). Use the text and tokenizer of then."
        )
    return ids


def _check(tokenizer: Any, count: int, seq_len: int, split: Split) -> None:
    if split not in ("calibration", "evaluation"):
        raise DataError(f"The split '{split}' does not exist: use calibration or evaluation.")
    if count < 1 or seq_len < 2:
        raise DataError(f"{count} segments of {seq_len} tokens make no sense: use at least 1 segment of 2 tokens.")
    if seq_len > tokenizer.model_max_length:
        raise DataError(
            f"Segments of {seq_len:,} tokens are longer than the model's context of {tokenizer.model_max_length:,}: "
            "use shorter ones."
        )


def _sha256(ids: Tensor) -> str:
    return hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()


def _tokens(texts: list[str], tokenizer: Any) -> Tensor:
    """All texts as one (tokens,) int64 stream, the end-of-text token between two of them."""
    if not texts:
        return torch.zeros(0, dtype=torch.int64)
    separator = torch.tensor([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], dtype=torch.int64)
    pieces: list[Tensor] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        batch = tokenizer(texts[start : start + _TEXTS_AT_ONCE], add_special_tokens=False, verbose=False)
        for encoded in batch["input_ids"]:
            if pieces or encoded:
                pieces += [separator, torch.tensor(encoded, dtype=torch.int64)]
    return torch.cat([separator[:0], *pieces[1:]])
