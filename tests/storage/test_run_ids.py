"""Run ids: well-formed ones, and mistyped text intended as a run id."""

import pytest

from storage.run_ids import is_run_id, means_run


@pytest.mark.parametrize("text", ["r-0123456789", "r-ffff"])
def test_a_run_id_is_well_formed(text: str) -> None:
    assert is_run_id(text) and means_run(text)


@pytest.mark.parametrize("text", ["", "r-", "r-xyz0", "r-0123/../..", "r-0123\n", "R-0123456789", "j-0123456789"])
def test_other_texts_are_not_run_ids(text: str) -> None:
    assert not is_run_id(text)


def test_a_mistyped_run_id_still_means_a_run() -> None:
    assert means_run("r-0123456789abcdefghij") and not means_run("builtin") and not means_run("org/r-model")
