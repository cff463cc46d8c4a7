"""The tokenizer of a model as metadata of a GGUF file: the inverse of `abq_core.models.gguf.tokenizer`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from abq_core.export.errors import ExportError
from abq_core.models.files import TOKENIZER, chat_template
from abq_core.models.gguf.tokenizer import SPACE, TokenKind, rule_of
from abq_core.models.tokenizer import text_prefix

_PREPENDING = frozenset({"first", "always"})


class Vocabulary(NamedTuple):
    """Tokens in the order of their ids, with their kinds; merges as "left right", or scores for SentencePiece.

    model: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE).  rule: how a text is cut before merging.
    """

    model: str
    rule: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float] | None
    space_prefix: bool


def vocabulary_of(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary in a folder's tokenizer.json, filled up to the embedding's `rows` with unused tokens.

    Raises ExportError for a tokenizer of another kind.
    """
    file = folder / TOKENIZER
    if not file.is_file():
        raise ExportError(
            f"The model has no {TOKENIZER}. Save its tokenizer with transformers' AutoTokenizer and save_pretrained()."
        )
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    model = content["model"]
    if model.get("type") != "BPE":
        raise ExportError(f"The model's tokenizer is of the kind {model.get('type')}; a GGUF file here holds BPE.")
    tokens, kinds = _tokens(content, rows)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        scores = _scores(tokens, [merge.split(" ") for merge in merges])
        return Vocabulary("llama", "default", tokens, kinds, [], scores, _prepends(content))
    rule = rule_of(content.get("pre_tokenizer"))
    if rule is None:
        raise ExportError(
            "The model's tokenizer cuts texts by a rule that has no name in llama.cpp here, so its tokens would be "
            "others. Export to compressed-tensors instead."
        )
    return Vocabulary("gpt2", rule, tokens, kinds, merges, None, False)


def add_tokenizer(writer: Any, folder: Path, tokenizer: Any, vocabulary: Vocabulary, ends: Sequence[int]) -> None:
    """Add vocabulary, special tokens and chat template to a gguf.GGUFWriter.

    tokenizer: transformers' object.  ends: ids of the tokens that end a text or a turn.
    """
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.rule)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if vocabulary.scores is None:
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.space_prefix)
    roles = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "unk": writer.add_unk_token_id}
    roles["pad"] = writer.add_pad_token_id
    for role, add in roles.items():
        if (number := getattr(tokenizer, f"{role}_token_id")) is not None:
            add(number)
    turn = next((end for end in ends if end != tokenizer.eos_token_id), None)
    if turn is not None:
        writer.add_eot_token_id(turn)
    writer.add_add_bos_token(bool(text_prefix(tokenizer)))
    writer.add_add_eos_token(False)
    if (template := chat_template(folder)) is not None:
        writer.add_chat_template(template)


def _tokens(content: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Tokens and kinds by id."""
    by_id = {number: (token, _kind(content, token)) for token, number in content["model"]["vocab"].items()}
    for added in content["added_tokens"]:
        kind = TokenKind.CONTROL if added["special"] else TokenKind.USER_DEFINED
        kind = TokenKind.UNKNOWN if added["content"] == content["model"].get("unk_token") else kind
        by_id[added["id"]] = added["content"], kind
    if by_id and max(by_id) >= rows:
        raise ExportError(f"The tokenizer has the id {max(by_id):,}, and the embedding {rows:,} rows.")
    unused = ((f"[PAD{number}]", TokenKind.UNUSED) for number in range(rows))
    pairs = [by_id.get(number, pad) for number, pad in enumerate(unused)]
    return [token for token, _ in pairs], [int(kind) for _, kind in pairs]


def _kind(content: Mapping[str, Any], token: str) -> TokenKind:
    is_byte = content["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x")
    return TokenKind.BYTE if is_byte else TokenKind.NORMAL


def _scores(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """SentencePiece's scores: a token that an earlier merge makes has a higher one."""
    rank: dict[str, int] = {}
    for number, (left, right) in enumerate(merges):
        rank.setdefault(left + right, number)
    return [-float(rank.get(token, 0)) for token in tokens]


def _prepends(content: Mapping[str, Any]) -> bool:
    """Whether SentencePiece's space is put in front of a text."""
    normalizer = content.get("normalizer") or {}
    parts = [normalizer, *normalizer.get("normalizers", [])]
    before = content.get("pre_tokenizer") or {}
    return before.get("prepend_scheme") in _PREPENDING or any(
        part.get("type") == "Prepend" and part.get("prepend") == SPACE for part in parts
    )
