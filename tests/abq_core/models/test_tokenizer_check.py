"""Trials of tokenizers: vocabularies as large as the largest real ones pass."""

import itertools
import json
from pathlib import Path

import pytest

from abq_core.models.checks.tokenizer_check import check_tokenizer


def large_tokenizer(indent: int | None) -> str:
    """A tokenizer.json of the size of Gemma's: a BPE with 254,079 tokens and 504,063 merges."""
    letters = [chr(c) for c in range(0x30, 0x6F)]
    pairs = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    triples = list(itertools.product(pairs, letters))
    tokens = [*letters, *pairs, *(pair + letter for pair, letter in triples)]
    merges = [[pair[0], pair[1]] for pair in pairs]
    merges += [[pair, letter] for pair, letter in triples] + [[pair[0], pair[1] + letter] for pair, letter in triples]
    model = {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    separators = (",", ":") if indent is None else None
    content = {"version": "1.0", **empty, "added_tokens": [], "model": model}
    return json.dumps(content, indent=indent, separators=separators)


@pytest.mark.parametrize(("indent", "megabytes"), [(None, 8), (2, 25)])
def test_the_largest_real_vocabularies_pass(tmp_path: Path, indent: int | None, megabytes: int) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(large_tokenizer(indent), "utf-8")
    assert file.stat().st_size > megabytes * 10**6
    assert check_tokenizer(file) == 254_078
