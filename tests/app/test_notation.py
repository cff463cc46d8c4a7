"""Lists, shapes and token counts as people type them."""

import pytest

from app.notation import NotationError, parse_list, parse_shapes, parse_token_counts


def test_lists_ignore_blanks_and_empty_items() -> None:
    assert parse_list(" W2A8, W4A4,, ") == ["W2A8", "W4A4"]
    assert parse_list(" , ") == []


@pytest.mark.parametrize("text", ["4096x11008", " 4096 X 11008 ", "4096*11008", "4096,11008"])
def test_a_shape_is_outputs_by_inputs(text: str) -> None:
    assert parse_shapes([text, "1x1"]) == [(4096, 11008), (1, 1)]


@pytest.mark.parametrize("text", ["", "4096", "0x4096", "4096x0", "-1x2", "4096x4096x2", "1234567x2", "axb"])
def test_a_wrong_shape_is_quoted(text: str) -> None:
    with pytest.raises(NotationError, match=f"'{text}' is not a shape.*4096x4096"):
        parse_shapes(["4096x4096", text])


def test_token_counts_are_whole_numbers_from_one() -> None:
    assert parse_token_counts(["1", " 64 "]) == [1, 64]
    for text in ("0", "1.5", "-1", "1234567", "many"):
        with pytest.raises(NotationError, match=f"'{text}' is not a number of tokens"):
            parse_token_counts([text])


def test_a_long_text_is_cut() -> None:
    with pytest.raises(NotationError, match="'" + "9" * 40 + "' is not"):
        parse_token_counts(["9" * 1000])
