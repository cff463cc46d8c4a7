"""WikiText-2 and C4 as GPTQ's script and its successors read them, so that perplexities compare with papers.

WikiText-2: the rows of the test split joined by blank lines. C4: the first 1,100 documents of the validation shard
joined by spaces, at most 256 windows. Either text is tokenized once and cut into consecutive windows without overlap.
BOS, if the tokenizer adds it, is therefore the first token of the first window only. Source: `datautils.py` and
`opt_eval` of github.com/IST-DASLab/gptq.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abq_core.models.tokenizer import encode, text_prefix
from abq_core.text.documents import Split, Text
from abq_core.text.errors import DataError, ShortTextError
from abq_core.text.records import TextRecord, ids_sha256
from abq_core.text.sources import is_name, read_text
from abq_core.text.text_files import holds_documents

PAPER_SEQ_LEN = 2048
_FEWEST_WINDOWS = 2  # a standard error needs two


@dataclass(frozen=True)
class _Joined:
    """How a data set becomes one string. documents, windows: the first ones that count; None for all."""

    separator: str
    documents: int | None = None
    windows: int | None = None


_WIKITEXT2, _C4 = _Joined("\n\n"), _Joined(" ", documents=1100, windows=256)


def paper_segments(source: str, tokenizer: Any, seq_len: int, split: Split) -> tuple[Tensor, TextRecord]:
    """All consecutive windows of a text, (windows, seq_len) int64, and their record.

    A .jsonl file and "c4" are read as C4, every other text as WikiText-2; a .txt file has one row per line.
    source: as for `sources.read_text`.  split: "evaluation", or "whole" for a file.
    Raises DataError, and ShortTextError for a text with less than two windows.
    """
    if not 2 <= seq_len <= tokenizer.model_max_length:
        raise DataError(
            f"Windows of {seq_len:,} tokens do not fit the model's context of {tokenizer.model_max_length:,}: use 2 to "
            f"{tokenizer.model_max_length:,}."
        )
    joined = _C4 if source.partition("@")[0] == "c4" or holds_documents(source) else _WIKITEXT2
    text = read_text(source, split, most=joined.documents)
    rows = _rows(source, text)[: joined.documents]
    stream = torch.tensor(encode(tokenizer, [joined.separator.join(rows)], special_tokens=True)[0], dtype=torch.int64)
    windows = len(stream) // seq_len
    if windows < _FEWEST_WINDOWS:
        raise ShortTextError(
            f"The text of '{source}' has {len(stream):,} tokens: {windows} windows of {seq_len:,}, but the paper's "
            f"protocol needs at least {_FEWEST_WINDOWS}. Use shorter windows (--seq-len), or more text.",
            windows,
            len(stream),
        )
    windows = min(windows, joined.windows or windows)
    ids = stream[: windows * seq_len].view(windows, seq_len)
    prefix = text_prefix(tokenizer)
    return ids, TextRecord(
        source=text.source,
        revision=text.revision,
        split=split,
        seed=0,
        documents=len(rows),
        tokens=len(stream) - len(prefix),
        seq_len=seq_len,
        windows=tuple(range(windows)),
        sha256=ids_sha256(ids),
        prefix=prefix,
        protocol="paper",
    )


def _rows(source: str, text: Text) -> Sequence[str]:
    """The rows of a text as its data set has them.

    The lines of a .txt file keep their line end, and blank lines are empty, as in the data set made of WikiText-2.
    """
    if is_name(source) or Path(source).suffix.lower() != ".txt":
        return text.documents
    return [line if line.strip() else "" for line in io.StringIO("".join(text.documents))]
