"""Tables: every text is escaped unless it is markup, and each cell carries its sort key."""

import pytest

from app.web import html
from app.web.page.table import Cell, Heading, sort_number, table

HOSTILE = "\"><script>alert(1)</script>'"


def test_texts_keys_and_sort_keys_are_escaped() -> None:
    shown = table([Heading(HOSTILE)], [(HOSTILE, [Cell(HOSTILE, HOSTILE)])], HOSTILE, HOSTILE)
    assert "<script>" not in shown and shown.count("&lt;script&gt;") == 5
    assert shown.count("&#34;&gt;") == 5  # no attribute is closed early


def test_markup_is_kept() -> None:
    shown = table([Heading(html.term("KL"), numeric=True)], [("", [Cell(html.term("SNR"), 1.5)])], "caption")
    assert shown.count("<abbr") == 2 and 'data-order="1.5"' in shown


def test_the_selected_row_is_marked_and_rows_can_be_inert() -> None:
    rows = [("a", [Cell("1")]), ("b", [Cell("2")])]
    shown = table([Heading("column")], rows, "caption", selected="b")
    assert shown.count('aria-selected="true"') == 1 and shown.count('tabindex="0"') == 2
    assert "tabindex" not in table([Heading("column")], rows, "caption", selectable=False)


@pytest.mark.parametrize(("value", "key"), [(3, 3.0), (None, ""), (float("nan"), "")])
def test_missing_numbers_sort_last(value: object, key: object) -> None:
    assert sort_number(value) == key
