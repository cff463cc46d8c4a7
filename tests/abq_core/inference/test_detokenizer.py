"""Incremental detokenization equals batch decoding: byte-level BPE and byte fallback."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from abq_core.inference.detokenizer import Detokenizer
from abq_core.models.tokenizer import load_tokenizer

TEXT = "é → 漢字 😀!"
HELLO, A = 257, 258  # of `byte_fallback`
INVALID = [1 + 0x62, 1 + 0xE6, A]  # "b", then the first of three bytes of a character, then "a"


@pytest.fixture(scope="module")
def byte_level(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_llama)


@pytest.fixture(scope="module")
def byte_fallback() -> PreTrainedTokenizerFast:
    """A SentencePiece-style tokenizer: a token per byte, and a decoder with byte fallback."""
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}, "▁hello": HELLO, "a": A}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def stream(tokenizer: PreTrainedTokenizerBase, prompt: list[int], ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt)
    return [detokenizer.add(token, index == len(ids) - 1) for index, token in enumerate(ids)]


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 299), min_size=1, max_size=40), prompt=st.lists(st.integers(1, 299), max_size=10))
def test_any_ids_of_a_byte_level_tokenizer(
    byte_level: PreTrainedTokenizerBase, prompt: list[int], ids: list[int]
) -> None:
    """Up to characters that the prompt leaves incomplete, which belong to neither text."""
    whole, before = (byte_level.decode(part, skip_special_tokens=True) for part in (prompt + ids, prompt))
    if not before.endswith("\ufffd"):
        assert before + "".join(stream(byte_level, prompt, ids)) == whole


def test_a_character_of_several_tokens_is_emitted_when_complete(byte_level: PreTrainedTokenizerBase) -> None:
    ids = byte_level(TEXT)["input_ids"]
    pieces = stream(byte_level, [], ids)
    assert len(ids) > len(TEXT) and "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_incomplete_character_at_the_end_is_replaced(byte_level: PreTrainedTokenizerBase) -> None:
    assert "".join(stream(byte_level, [], byte_level(TEXT)["input_ids"][:-2])) == "é → 漢字 \ufffd"


def test_the_first_word_keeps_its_space_after_a_prompt(byte_fallback: PreTrainedTokenizerFast) -> None:
    assert stream(byte_fallback, [A], [HELLO, HELLO]) == [" hello", " hello"]
    assert stream(byte_fallback, [], [HELLO, HELLO]) == ["hello", " hello"]


def test_bytes_that_are_not_utf8_become_replacement_characters(byte_fallback: PreTrainedTokenizerFast) -> None:
    ids = [*INVALID, *(1 + byte for byte in "é".encode()), A]
    assert "".join(stream(byte_fallback, [HELLO], ids)) == "b\ufffdaéa"


@pytest.mark.parametrize("in_prompt", [0, 1, 2, 3])
def test_a_run_of_long_characters_longer_than_the_context(
    byte_fallback: PreTrainedTokenizerFast, in_prompt: int
) -> None:
    """ByteFallback decodes a run of byte tokens wholly or not at all."""
    faces = "😀😁😂🤣"
    ids = [1 + byte for byte in faces.encode()]
    written = stream(byte_fallback, [HELLO, *ids[: 4 * in_prompt]], [*ids[4 * in_prompt :], HELLO, A])
    assert "".join(written) == f"{faces[in_prompt:]} helloa"


def test_decode_stream_fails_on_bytes_that_are_not_utf8(byte_fallback: PreTrainedTokenizerFast) -> None:
    """The reason for `Detokenizer`.

    When this test fails, check whether `DecodeStream` can replace it.
    """
    decode_stream = DecodeStream(ids=[HELLO], skip_special_tokens=True)
    with pytest.raises(Exception, match="Invalid prefix encountered"):
        for token in INVALID:
            decode_stream.step(byte_fallback.backend_tokenizer, token)
