"""Tokenizers of GGUF files: the ids of the tokenizer that they came from, and of SentencePiece's own rule."""

from collections.abc import Callable
from pathlib import Path

import pytest
from family_cases import family_model
from gguf import GGUFWriter
from gguf_cases import (
    CONTROL,
    NORMAL,
    SPACE,
    sentencepiece_tokens,
    write_gguf,
    write_sentencepiece,
    write_tokenizer,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from abq_core.models.errors import ModelError
from abq_core.models.files import check_settings
from abq_core.models.gguf.folder import converted_folder
from abq_core.models.tokenizer import load_tokenizer

TEXTS = [
    "",
    "The module provides functions to read and write files.",
    "the file in there, they're 12345 there's  two   spaces\n\n\ttab",
    " leading and trailing ",
    "na\u00efve \u4e2d\u6587 \U0001f600",
    "the<|endoftext|> file</s>the",
]


def tokenizer_of(
    tokenizer_json: Path, tmp_path: Path, tokenizer: Callable[[GGUFWriter], object], family: str = "llama"
) -> PreTrainedTokenizerBase:
    """The checked tokenizer of a GGUF file."""
    file = tmp_path / "tiny.gguf"
    write_gguf(family_model(family), tokenizer_json, file, tokenizer=tokenizer)
    folder = converted_folder(file)
    check_settings(folder)
    return load_tokenizer(folder)


def test_byte_level_bpe_has_the_ids_of_its_tokenizer(tokenizer_json: Path, tmp_path: Path) -> None:
    ours = tokenizer_of(tokenizer_json, tmp_path, lambda writer: write_tokenizer(writer, tokenizer_json))
    theirs = PreTrainedTokenizerFast.from_pretrained(tokenizer_json.parent)
    assert ours.get_vocab() == theirs.get_vocab()
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
        assert ours.decode(ours(text)["input_ids"]) == text
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)


def test_bos_and_eos_stand_around_a_text_if_the_file_says_so(tokenizer_json: Path, tmp_path: Path) -> None:
    def write(writer: GGUFWriter) -> None:
        write_sentencepiece(writer)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)

    ids = tokenizer_of(tokenizer_json, tmp_path, write)("the file")["input_ids"]
    assert ids[0] == 1 and ids[-1] == 2 and 1 not in ids[1:-1]


def test_bos_is_the_default_of_sentencepiece_only(tokenizer_json: Path, tmp_path: Path) -> None:
    ours = tokenizer_of(tokenizer_json, tmp_path, write_sentencepiece)
    assert ours("the")["input_ids"][0] == 1
    assert ours("the", add_special_tokens=False)["input_ids"][0] != 1


def slow_sentencepiece(text: str, prefix: bool) -> list[int]:
    """SentencePiece's BPE: merge the adjacent pair whose token has the highest score, the first of equal ones."""
    tokens, scores, kinds = sentencepiece_tokens()
    numbers = {token: number for number, token in enumerate(tokens)}
    mergeable = {token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL}
    pieces = list((SPACE if prefix else "") + text.replace(" ", SPACE))
    while True:
        found = [
            (-scores[numbers[pair]], at)
            for at in range(len(pieces) - 1)
            if (pair := pieces[at] + pieces[at + 1]) in mergeable
        ]
        if not found:
            break
        at = min(found)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return [
        number
        for piece in pieces
        for number in ([numbers[piece]] if piece in numbers else [3 + byte for byte in piece.encode()])
    ]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_merges_by_score(tokenizer_json: Path, tmp_path: Path, prefix: bool) -> None:
    ours = tokenizer_of(tokenizer_json, tmp_path, lambda writer: write_sentencepiece(writer, prefix))
    for text in [
        "the file in there",
        "theretherein  t he",
        "filefile on a tea.",
        "na\u00efve \u4e2d\n1",
        "  two",
        "e" * 50,
    ]:
        ids = ours(text, add_special_tokens=False)["input_ids"]
        assert ids == slow_sentencepiece(text, prefix), text
        assert ours.decode(ids) == text


def test_control_tokens_are_matched_in_the_text(tokenizer_json: Path, tmp_path: Path) -> None:
    ours = tokenizer_of(tokenizer_json, tmp_path, write_sentencepiece)
    tokens, _, kinds = sentencepiece_tokens()
    control, user = kinds.index(CONTROL, 3), kinds.index(4)
    ids = ours(f"the{tokens[control]}the{tokens[user]}", add_special_tokens=False)["input_ids"]
    assert control in ids and user in ids
    assert tokens[user] in ours.decode(ids, skip_special_tokens=True)
    assert tokens[control] not in ours.decode(ids, skip_special_tokens=True)


def test_gemma_merges_spaces_and_in_the_order_of_its_ids(tokenizer_json: Path, tmp_path: Path) -> None:
    tokens, _, kinds = sentencepiece_tokens()
    at = kinds.index(4)
    tokens[at] = "  "  # llama.cpp's converter writes the spaces of user-defined tokens as spaces

    def write(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-1000.0] * len(tokens))
        writer.add_token_types(kinds)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_space_prefix(False)

    ours = tokenizer_of(tokenizer_json, tmp_path, write, "gemma3_text")
    ids = ours("g  g", add_special_tokens=False)["input_ids"]
    assert at in ids and ours.decode(ids) == "g  g"
    assert ours("the file", add_special_tokens=False)["input_ids"] == slow_sentencepiece("the file", False)


def test_phi_3_swallows_the_space_after_its_control_tokens(tokenizer_json: Path, tmp_path: Path) -> None:
    tokens, _, kinds = sentencepiece_tokens()
    control = kinds.index(CONTROL, 3)
    for family in ("llama", "phi3"):
        ours = tokenizer_of(tokenizer_json, tmp_path, write_sentencepiece, family)
        close, apart = (ours(f"{tokens[control]}{gap}the")["input_ids"] for gap in ("", "\n"))
        assert (close == apart) is (family == "phi3")


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("gpt-2", "a 123's  b", ["a", "\u0120123", "'s", "\u0120", "\u0120b"]),
        ("smollm", "a 12", ["a", "\u0120", "1", "2"]),
        ("llama-bpe", "a 12345!\n", ["a", "\u0120", "123", "45", "!\u010a"]),
        ("qwen2", "a 123", ["a", "\u0120", "1", "2", "3"]),
        ("gpt-4o", "aB'S 1234", ["a", "B'S", "\u0120", "123", "4"]),
        ("tekken", "aB'S 12", ["a", "B", "'S", "\u0120", "1", "2"]),
    ],
)
def test_texts_are_cut_by_the_rule_of_the_file(
    pre: str, text: str, pieces: list[str], tokenizer_json: Path, tmp_path: Path
) -> None:
    backend = tokenizer_of(
        tokenizer_json, tmp_path, lambda writer: write_tokenizer(writer, tokenizer_json, pre)
    ).backend_tokenizer
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize("pre", ["default", "deepseek-llm", "jina-v2-code"])
def test_an_unknown_rule_is_named(pre: str, tokenizer_json: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"'{pre}', which is not supported"):
        tokenizer_of(tokenizer_json, tmp_path, lambda writer: write_tokenizer(writer, tokenizer_json, pre))


@pytest.mark.parametrize("kind", ["bert", "t5", "rwkv", "none"])
def test_an_unknown_kind_is_named(kind: str, tokenizer_json: Path, tmp_path: Path) -> None:
    def write(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(kind)
        writer.add_token_list(["a", "b"])

    with pytest.raises(ModelError, match=f"kind '{kind}'"):
        tokenizer_of(tokenizer_json, tmp_path, write)
