"""The selection of a page, made consistent with the finished runs."""

import pandas as pd
import pytest

from app.services.dataframes import RUN_COLUMNS
from app.web.page.selection import Selection

RUNS = pd.DataFrame(
    [
        {"run": "r-1", "model": "m", "precision": "Q4_K_M", "method": "imported", "state": "succeeded"},
        {"run": "r-2", "model": "m", "precision": "W4A4", "method": "rtn", "state": "succeeded"},
        {"run": "r-3", "model": "m", "precision": "W4A4", "method": "abq", "state": "succeeded"},
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
