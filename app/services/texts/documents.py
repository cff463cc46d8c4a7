"""KL divergence from full precision along a document, for several columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas

from abq_core.text.sources import is_name, read_text
from app.services.registry import ModelRegistry
from app.services.sources import Sources

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MOST_TOKENS = 2048
CHARACTERS_PER_TOKEN = 16  # of the text that is tokenized
BETWEEN = "\n\n"  # two documents


@dataclass(frozen=True)
class DocumentKl:
    """A document and the KL of each column so far.

    tokens: the text of each token.  is_whole: False if only the first MOST_TOKENS were read.  rows: by column, those of
    `document_kl`, with the texts `top_text` and `full_top_text`.
    """

    tokens: tuple[str, ...]
    is_whole: bool
    rows: Mapping[str, pandas.DataFrame]


class DocumentService:
    """Reads documents with several models."""

    def __init__(self, registry: ModelRegistry, sources: Sources) -> None:
        self._registry, self._sources = registry, sources

    def measure(
        self, columns: Sequence[str], source: str, model: str, account: str | None = None
    ) -> Iterator[DocumentKl]:
        """Read a text with each column in turn; yields after each one.

        columns: run ids or precisions.  source: as for `sources.read_text`; of a named text the evaluation split is
        read, of a file the beginning.  account: of the page's visitor who names the text. Raises ModelError, DataError,
        EvaluationError, ServiceError.
        """
        from abq_core.evaluation.document_kl import Windows, document_kl, reference_side
        from abq_core.models.tokenizer import text_prefix

        self._sources.check_text(source, account)
        ref = self._registry.common_model(columns, model)
        base = self._registry.full(ref)
        ids, is_whole = _read(source, base.tokenizer)
        windows = Windows.of(ids, text_prefix(base.tokenizer), base.context)
        tokens = _texts(ids.tolist(), base.tokenizer)
        reference, found = reference_side(base, windows), dict[str, pandas.DataFrame]()
        for column in columns:
            rows = document_kl(self._registry.column(column, ref), reference, windows)
            for name in ("top", "full_top"):
                rows[f"{name}_text"] = _words(rows[name], base.tokenizer)
            found[column] = rows
            yield DocumentKl(tokens, is_whole, dict(found))


def _read(source: str, tokenizer: "PreTrainedTokenizerBase") -> tuple["Tensor", bool]:
    """The first MOST_TOKENS ids of a text, (tokens,) int64, and whether it has no more."""
    import torch

    from abq_core.models.tokenizer import encode

    characters = MOST_TOKENS * CHARACTERS_PER_TOKEN
    documents = read_text(source, "evaluation" if is_name(source) else "whole", characters).documents
    text, length = "", sum(len(one) + len(BETWEEN) for one in documents)
    for document in documents:
        text += document[:characters] + BETWEEN
        if len(text) >= characters:
            break
    text = text[: min(characters, len(text) - len(BETWEEN))] if text else ""
    ids = encode(tokenizer, [text], special_tokens=False)[0]
    return torch.tensor(ids[:MOST_TOKENS], dtype=torch.int64), len(ids) <= MOST_TOKENS and length <= characters


def _texts(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """The text of each token; a character of several tokens belongs to the last one."""
    from abq_core.inference.detokenizer import Detokenizer

    stream = Detokenizer(tokenizer, [])
    return tuple(stream.add(token, last=at + 1 == len(ids)) for at, token in enumerate(ids))


def _words(ids: pandas.Series, tokenizer: "PreTrainedTokenizerBase") -> pandas.Series:
    """The text of each id."""
    from abq_core.models.tokenizer import decode

    return ids.map({token: decode(tokenizer, [token]) for token in ids.unique().tolist()})
