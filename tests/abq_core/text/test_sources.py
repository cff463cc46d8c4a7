"""Sources by name: built-in texts, and names that are not known."""

from pathlib import Path

import pytest

from abq_core.builtin.corpus import documents
from abq_core.text.errors import DataError
from abq_core.text.sources import NAMES, check_source, read_text


def test_the_training_text_is_only_for_calibration() -> None:
    trained = [document.text for document in documents("train")]
    assert read_text("builtin-train", "calibration", 1).documents == trained
    held_out = [read_text(source, "evaluation", 1).documents for source in ("builtin", "builtin-train")]
    assert held_out[0] == held_out[1] == [document.text for document in documents("evaluation")]


def test_unknown_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("text")
    for source in ("builtin", "builtin-train", str(tmp_path / "there.txt")):
        check_source(source)
    with pytest.raises(DataError, match="is not known: use builtin, builtin-train, wikitext2, c4, pile, or a"):
        check_source("wikitext103")
    with pytest.raises(DataError, match=r"absent.txt' does not exist"):
        check_source(str(tmp_path / "absent.txt"))
    assert len(NAMES) == 5
