"""Heads, grouped-query groups, RoPE pairs and the rows of fused projections."""

import pytest
import torch
from family_cases import CONFIGS

from abq_core.models.architectures import Rows
from abq_core.models.attention.head_layout import HeadLayout


@pytest.mark.parametrize(
    ("part", "by_head", "expected"),
    [
        ("query", True, [0, 1, 2, 3, 8, 9, 10, 11]),
        ("key", True, [4, 5, 12, 13]),
        ("value", True, [6, 7, 14, 15]),
        ("query", False, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("key", False, [8, 9, 10, 11]),
        ("value", False, [12, 13, 14, 15]),
        ("up", False, [8, 9, 10, 11, 12, 13, 14, 15]),
        (None, False, list(range(16))),
    ],
)
def test_rows_of_a_fused_linear(part: str | None, by_head: bool, expected: list[int]) -> None:
    layout = HeadLayout(heads=4, kv_heads=2, head_dim=2, rotary=2)
    assert layout.row_indices(Rows("fused", part, by_head), 16).tolist() == expected


def test_channels_that_rope_pairs_share_a_value() -> None:
    layout = HeadLayout(heads=4, kv_heads=2, head_dim=4, rotary=2)
    assert layout.query_key_values == 6
    assert layout.expand_query_key(torch.arange(6.0)).tolist() == [0, 0, 1, 2, 3, 3, 4, 5]


def test_values_of_kv_heads_are_repeated_for_their_query_heads_and_reduced_by_their_maximum() -> None:
    layout = HeadLayout(heads=4, kv_heads=2, head_dim=2, rotary=0)
    per_query = layout.to_queries(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert per_query.tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert layout.per_kv_channel(torch.arange(8.0)).tolist() == [2, 3, 6, 7]
    assert torch.equal(layout.per_kv_channel(per_query), torch.tensor([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("llama", HeadLayout(4, 2, 16, 16)),
        ("qwen3", HeadLayout(4, 2, 32, 32)),
        ("gpt_neox", HeadLayout(4, 4, 16, 4)),
        ("phi", HeadLayout(4, 2, 16, 8)),
        ("opt", HeadLayout(4, 4, 16, 0)),
        ("falcon", HeadLayout(4, 1, 16, 16)),
        ("falcon-rw", HeadLayout(4, 4, 16, 0)),
        ("falcon-40b", HeadLayout(4, 2, 16, 16)),
    ],
)
def test_the_layout_of_a_config(case: str, expected: HeadLayout) -> None:
    assert HeadLayout.of(CONFIGS[case]()) == expected
