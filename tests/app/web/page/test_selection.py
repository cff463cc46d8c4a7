"""The selection of a page, made consistent with the finished runs."""

import pandas as pd
import pytest

from app.services.dataframes import RUN_COLUMNS
from app.web.page.selection import Selection, run_choices

RUNS = pd.DataFrame(
    [
        {
            "run": "r-1",
            "model": "m",
            "precision": "Q4_K_M",
            "method": "imported",
            "state": "succeeded",
            "example": False,
        },
        {"run": "r-2", "model": "m", "precision": "W4A4", "method": "rtn", "state": "succeeded", "example": False},
        {"run": "r-3", "model": "m", "precision": "W4A4", "method": "abq", "state": "succeeded", "example": False},
    ],
    columns=RUN_COLUMNS,
)


def test_an_import_sets_the_model_and_keeps_the_precision() -> None:
    settled = Selection(model="other", precision="W4A8", run="r-1").settled(RUNS)
    assert (settled.model, settled.precision, settled.run) == ("m", "W4A8", "r-1")


def test_a_calibrated_run_sets_both() -> None:
    settled = Selection(model="other", precision="W4A8", run="r-2").settled(RUNS)
    assert (settled.model, settled.precision, settled.run) == ("m", "W4A4", "r-2")


@pytest.mark.parametrize(("precision", "run"), [("W4A4", "r-3"), ("W8A8", "")])
def test_a_precision_chooses_a_calibrated_run_never_an_import(precision: str, run: str) -> None:
    assert Selection(model="m", precision=precision).settled(RUNS).run == run


def with_example(*own: dict[str, object]) -> pd.DataFrame:
    """An example, older than the runs in `own`."""
    example = {"run": "r-e", "model": "m", "precision": "W4A4", "method": "abq", "state": "succeeded", "example": True}
    return pd.DataFrame([*own, example], columns=RUN_COLUMNS)


def test_a_run_made_here_takes_precedence_over_an_example() -> None:
    own = {**RUNS.iloc[1].to_dict(), "run": "r-o"}
    assert Selection(model="m", precision="W4A4").settled(with_example()).run == "r-e"
    assert Selection(model="m", precision="W4A4").settled(with_example(own)).run == "r-o"


@pytest.mark.parametrize(
    ("selected", "finished", "run"),
    [
        ("r-e", {"precision": "W4A4"}, "r-o"),
        ("r-e", {"precision": "W8A8"}, "r-e"),
        ("r-e", {"precision": "W4A4", "model": "n"}, "r-e"),
        ("r-2", {"precision": "W4A4"}, "r-2"),
    ],
)
def test_a_run_that_finishes_replaces_a_selected_example_only(
    selected: str, finished: dict[str, object], run: str
) -> None:
    before = with_example(RUNS.iloc[1].to_dict())
    now = with_example({**RUNS.iloc[1].to_dict(), **finished, "run": "r-o"}, RUNS.iloc[1].to_dict())
    assert Selection(model="m", precision="W4A4", run=selected).after(now, list(before["run"])).run == run


def test_an_example_is_marked_in_the_list_of_runs() -> None:
    assert run_choices(with_example(RUNS.iloc[1].to_dict())) == [
        ("W4A4 rtn (r-2)", "r-2"),
        ("W4A4 abq (example)", "r-e"),
    ]
