"""Unpacking against Python's integers, and against words that other packages wrote."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_cases import packed

from abq_core.imports.packed_integers import unpack, words_for

# What other packages packed: codes and the words that their `source` made of them.
RECORDED = json.loads((Path(__file__).parent / "packed_words.json").read_text())


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 70), st.integers(1, 5), st.randoms(use_true_random=False))
def test_unpacking_undoes_packing(bits: int, count: int, rows: int, random: object) -> None:
    codes = torch.tensor([[random.randrange(1 << bits) for _ in range(count)] for _ in range(rows)])  # type: ignore[attr-defined]
    words = packed(codes, bits)
    assert words.shape == (rows, words_for(count, bits))
    assert torch.equal(unpack(words, bits, count), codes.to(torch.int16))


def test_long_rows_are_unpacked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abq_core.imports.packed_integers._VALUES_AT_ONCE", 100)
    codes = torch.randint(0, 8, (7, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack(packed(codes, 3), 3, 64), codes.to(torch.int16))


@pytest.mark.parametrize(("bits", "recorded"), [(one["bits"], (one["codes"], one["words"])) for one in RECORDED])
def test_words_of_other_packages(bits: int, recorded: tuple[list[int], list[int]]) -> None:
    codes, words = recorded
    assert unpack(torch.tensor([words], dtype=torch.int32), bits, len(codes)).tolist() == [codes]
