"""The slider of a calibration's length: its numbers, and what it says about time and KL."""

from types import SimpleNamespace

import pytest
from app_cases import SpecMaker

from abq_core.methods import METHOD_TABLE, METHODS
from abq_core.spec import DEFAULT_END_TO_END_SEGMENTS
from app.services import Services
from app.web.page.context import Page
from app.web.tabs.calibrate_form.length import STEP, WHOLE, expectation, length_of, percent_of
from storage.jobs import Job


@pytest.mark.parametrize("method", METHODS)
def test_the_right_end_is_the_default_and_every_position_comes_back(method: str) -> None:
    whole = length_of(WHOLE, method)
    assert whole == (METHOD_TABLE[method].epochs, DEFAULT_END_TO_END_SEGMENTS)
    for percent in range(STEP, WHOLE + 1, STEP):
        now = length_of(percent, method)
        assert 1 <= now.pass_segments <= whole.pass_segments
        assert percent_of(now.epochs, method) == percent and now.epochs >= 1


def test_numbers_beyond_the_slider_move_it_to_its_ends() -> None:
    assert [percent_of(epochs, "abq") for epochs in (None, 0, 1, 7, 1000)] == [WHOLE, STEP, STEP, 40, WHOLE]


def test_the_info_names_time_and_the_nearest_runs_made_here(
    finished: tuple[Services, Job], tiny_spec: SpecMaker
) -> None:
    services, job = finished
    page: Page = SimpleNamespace(services=services)
    kl = services.runs.frame().set_index("run").loc[job.run_id, "kl_mean"]
    told = expectation(page, tiny_spec(), 240.0)
    assert told.startswith("About 4 min") and f"KL {kl:.4f} nats with 2 epochs." in told
    other = expectation(page, tiny_spec("W2A8"), None)
    assert other == "No other length of this calibration was run here yet."
    changed = expectation(page, tiny_spec(segments=3), None)  # a shorter text is another calibration
    assert changed == other
    assert expectation(page, tiny_spec(method="rtn"), 1.0).startswith("rtn learns nothing")
