"""The tokenizer of a GGUF file as the JSON files of a model folder; nothing is loaded or executed.

The result is checked like every other tokenizer, in a process with limits, before it is opened here. Kinds: byte-level
BPE ("gpt2" in the file) and SentencePiece's BPE ("llama" in the file).
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from abq_core.models.errors import ModelError
from abq_core.models.gguf.header import MAX_TOKENS, Header


class TokenKind(IntEnum):
    """Kinds of tokens in llama.cpp."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


SPACE = "\u2581"  # SentencePiece's mark for a space
_MAX_MERGED_CHARACTERS = 64  # of a token that merges can make; longer ones are never cut in two
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_NOT_STRIPPED = frozenset(
    {"<unk>", "<s>", "<|endoftext|>"}
)  # Phi-3's other control tokens swallow the space after them

# How a text is cut before its bytes are merged, by `tokenizer.ggml.pre`: regular expressions of tokenizers' Split, each
# applied to what the one before left. The rules of GPT-2 are those of ByteLevel itself.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}*{_LOWER}+", r"[^\r\n\p{L}\p{N}]?" + f"{_UPPER}+{_LOWER}*"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = f"{_WORDS[0]}{_CONTRACTIONS}|{_WORDS[1]}{_CONTRACTIONS}|" + r"\p{N}{1,3}|" + _REST
_TEKKEN = f"{_WORDS[0]}|{_WORDS[1]}|" + r"\p{N}|" + _REST
_SPLITS = {
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "dbrx": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "gpt-4o": _GPT4O,
    "tekken": _TEKKEN,
}
_DIGITS_NAME, _GPT2_NAME = "smollm", "gpt-2"
_DIGITS = frozenset({_DIGITS_NAME, "starcoder", "refact", "codeshell"})  # every digit apart, then as GPT-2
_GPT2 = frozenset({_GPT2_NAME, "gpt2"})
_WHOLE_TOKENS = frozenset({"llama-bpe", "llama-v3", "llama3", "tekken"})  # a text that is a token is not merged
_BOS_BY_DEFAULT = _WHOLE_TOKENS


def tokenizer_files(header: Header) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of tokenizer.json and tokenizer_config.json.

    Raises UnsafeModelError, and ModelError for a tokenizer of another kind.
    """
    kind = header.text("tokenizer.ggml.model")
    tokens: list[str] = header.items("tokenizer.ggml.tokens", str)
    kinds: list[int] = header.items("tokenizer.ggml.token_type", int, [int(TokenKind.NORMAL)] * len(tokens))
    if not 0 < len(tokens) <= MAX_TOKENS or len(kinds) != len(tokens):
        raise ModelError(
            f"{header.file} has {len(tokens):,} tokens and {len(kinds):,} kinds of tokens: there must be as many of "
            f"both, and at most {MAX_TOKENS:,}. Download it again."
        )
    if kind == "gpt2":
        parts = _byte_level(header, tokens, kinds)
        bos = header.text("tokenizer.ggml.pre", "") in _BOS_BY_DEFAULT
    elif kind == "llama":
        tokens = [SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
        parts = _sentencepiece(header, tokens, kinds)
        bos = True
    else:
        raise ModelError(
            f"{header.file} has a tokenizer of the kind {kind[:40]!r}; gpt2 (byte-level BPE) and llama (SentencePiece "
            "BPE) are supported. Use the model's original folder."
        )
    vocabulary: dict[str, int] = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ModelError(f"{header.file} has the same token twice, so texts cannot be encoded. Download it again.")
    parts["model"]["vocab"] = vocabulary
    roles = {role: _role(header, tokens, field) for role, field in _ROLES.items()}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(header, tokens, kinds),
        **parts,
        "post_processor": _frame(header, tokens, bos),
    }
    return content, _settings(header, roles)


def rule_of(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
    """The name in `tokenizer.ggml.pre` of how a byte-level tokenizer.json cuts texts; None if it has none here."""
    content = pre_tokenizer or {}
    parts = content["pretokenizers"] if content.get("type") == "Sequence" else [content]
    *before, level = parts
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space"):
        return None
    kinds = [part.get("type") for part in before]
    if kinds == ["Split"] and not level.get("use_regex", True):
        pattern = before[0]["pattern"].get("Regex")
        return next((name for name, known in _SPLITS.items() if known == pattern), None)
    if not level.get("use_regex", True):
        return None
    if kinds == ["Digits"] and before[0].get("individual_digits"):
        return _DIGITS_NAME
    return _GPT2_NAME if not kinds else None


def _settings(header: Header, roles: dict[str, str | None]) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": token for role, token in roles.items() if token is not None},
    }
    if "tokenizer.chat_template" in header.fields:
        settings["chat_template"] = header.text("tokenizer.chat_template")
    return settings


def _role(header: Header, tokens: list[str], field: str) -> str | None:
    """The token with a role such as bos, or None."""
    name = f"tokenizer.ggml.{field}_token_id"
    if name not in header.fields:
        return None
    number = header.integer(name)
    if not 0 <= number < len(tokens):
        raise ModelError(f"{header.file} has {name} {number}, but {len(tokens):,} tokens. Download it again.")
    return tokens[number]


def _byte_level(header: Header, tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """Byte-level BPE: the merges are in the file."""
    pre = header.text("tokenizer.ggml.pre", "default")
    if pre in _SPLITS:
        rules = [_split({"Regex": _SPLITS[pre]})]
    elif pre in _DIGITS:
        rules = [{"type": "Digits", "individual_digits": True}]
    elif pre in _GPT2:
        rules = []
    else:
        raise ModelError(
            f"{header.file} cuts texts by the rule {pre[:40]!r}, which is not supported: its tokens would be wrong. "
            "Use the model's original folder, or convert it again with a current llama.cpp."
        )
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pre not in _SPLITS}
    merges = [merge.split(" ", 1) for merge in header.items("tokenizer.ggml.merges", str)]
    if any(len(pair) != 2 for pair in merges):
        raise ModelError(f"{header.file} has a merge that is not two tokens. Download it again.")
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*rules, level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "ignore_merges": pre in _WHOLE_TOKENS, "merges": merges},
    }


def _split(pattern: dict[str, str]) -> dict[str, Any]:
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _sentencepiece(header: Header, tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """SentencePiece's BPE: the merges follow from the tokens and their scores."""
    prefix = header.flag("tokenizer.ggml.add_space_prefix", True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenKind.UNKNOWN), None)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*before, replace]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *after,
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": TokenKind.BYTE in kinds,
            "merges": _merges(header, tokens, kinds),
        },
    }


def _merges(header: Header, tokens: list[str], kinds: list[int]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the order in which SentencePiece merges: by the score of the result.

    Gemma's tokens merge in the order of their ids; its scores do not follow it.
    """
    scores: list[float] = header.items("tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise ModelError(f"{header.file} has {len(scores):,} scores for {len(tokens):,} tokens. Download it again.")
    if header.text("general.architecture") == "gemma3":
        scores = [-float(number) for number in range(len(tokens))]
    numbers = {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNUSED)
    }
    found: list[tuple[float, int, int, int, str, str]] = []
    for token, number in numbers.items():
        if len(token) <= _MAX_MERGED_CHARACTERS:
            for at in range(1, len(token)):
                left, right = numbers.get(token[:at]), numbers.get(token[at:])
                if left is not None and right is not None:
                    found.append((-scores[number], number, left, right, token[:at], token[at:]))
    found.sort()
    return [pair[-2:] for pair in found]


def _added_tokens(header: Header, tokens: list[str], kinds: list[int]) -> list[dict[str, Any]]:
    """The tokens that are matched in the text itself: control tokens, which are special, and user-defined ones."""
    strips = header.text("general.architecture") == "phi3" and header.text("tokenizer.ggml.model") == "llama"
    return [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": strips and kind == TokenKind.CONTROL and token not in _NOT_STRIPPED,
            "normalized": False,
            "special": kind != TokenKind.USER_DEFINED,
        }
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.USER_DEFINED) and token
    ]


def _frame(header: Header, tokens: list[str], bos: bool) -> dict[str, Any]:
    """The tokens around a text. bos: whether one begins with BOS where the file does not say."""
    ends = []
    for role, default in (("bos", bos), ("eos", False)):
        adds = header.flag(f"tokenizer.ggml.add_{role}_token", default)
        token = _role(header, tokens, role) if adds else None
        ends.append([] if token is None else [token])
    first, last = ends
    one = [{"SpecialToken": {"id": token, "type_id": 0}} for token in first]
    two = [{"SpecialToken": {"id": token, "type_id": 0}} for token in last]

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    return {
        "type": "TemplateProcessing",
        "single": [*one, text("A"), *two],
        "pair": [*one, text("A"), *two, *one, text("B"), *two],
        "special_tokens": {
            token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for token in {*first, *last}
        },
    }
