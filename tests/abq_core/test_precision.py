"""The precision notation."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abq_core.precision import FULL, Precision, PrecisionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("W2A8", Precision(2, 8)),
        ("W2*A8", Precision(2, 8, balanced=True)),
        ("w4a4G128", Precision(4, 4, group_size=128)),
        ("W6A6kv8", Precision(6, 6, kv_bits=8)),
        (" W3A16 ", Precision(3, 16)),
        ("W16A8", Precision(16, 8)),
        ("W4A8h8", Precision(4, 8, head_bits=8)),
        ("w2*a8H6E4", Precision(2, 8, balanced=True, head_bits=6, embedding_bits=4)),
        ("W4A8g128kv8h8e2", Precision(4, 8, group_size=128, kv_bits=8, head_bits=8, embedding_bits=2)),
        ("W4A8h16e16", Precision(4, 8)),
        ("fp16", FULL),
        ("W16A16", FULL),
    ],
)
def test_reads_the_notation(text: str, expected: Precision) -> None:
    assert Precision.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "W9A8",
        "W0A4",
        "W2A",
        "2A8",
        "W2**A8",
        "W16*A8",
        "W4A4g7",
        "W4A4kv9",
        "W4A8h1",
        "W4A8e9",
        "W4A8h17",
        "W4A8e8h8",
        "W4A8h",
        "W\uff14A4",
        "x" * 999,
    ],
)
def test_refuses_what_is_not_a_precision(text: str) -> None:
    with pytest.raises(PrecisionError, match=r"W2\*A8|Group size|star"):
        Precision.parse(text)


def precisions() -> st.SearchStrategy[Precision]:
    bits = st.integers(1, 8)
    return st.builds(
        Precision,
        weight_bits=bits,
        act_bits=bits | st.just(16),
        balanced=st.booleans(),
        group_size=st.sampled_from([None, 32, 64, 128]),
        kv_bits=st.none() | bits,
        head_bits=st.none() | st.integers(2, 8),
        embedding_bits=st.none() | st.integers(2, 8),
    )


@settings(deadline=None)
@given(precisions())
def test_text_and_value_are_the_same_thing(precision: Precision) -> None:
    assert Precision.parse(str(precision)) == precision


def test_the_tables_belong_to_the_model_and_not_to_its_linears() -> None:
    precision = Precision.parse("W4A8kv8h8e6")
    assert precision.of_linear(0, "up") == Precision.parse("W4A8kv8") == precision.with_tables(None, None)
    assert not Precision.parse("W16A16h8").is_full and not Precision.parse("W16A16e8").is_full


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_gives_a_precision_or_a_named_error(text: str) -> None:
    try:
        Precision.parse(text)
    except PrecisionError as error:
        assert str(error)


def test_bit_balance_stores_one_more_plane_than_its_name_says() -> None:
    starred = Precision.parse("W2*A8")
    assert (starred.levels, starred.stored_bits) == (5, 3)
    assert starred.information_bits == pytest.approx(math.log2(5))
    assert (Precision.parse("W2A8").levels, Precision.parse("W2A8").stored_bits) == (4, 2)
