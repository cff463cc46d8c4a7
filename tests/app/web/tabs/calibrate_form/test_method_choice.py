"""What the methods cost and give, and the presets of text and length."""

from types import SimpleNamespace

import pytest
from app_cases import SpecMaker

from abq_core.methods import METHODS
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.services import Services
from app.web.page.context import Page
from app.web.tabs.calibrate_form.method_choice import CHOICES, MAIN, PRESETS, STANDARD, cost_table, epochs_of
from storage.jobs import Job

W4A4 = Precision.parse("W4A4")


def test_three_methods_come_first_and_all_can_be_chosen() -> None:
    assert [name for _, name in CHOICES][:3] == list(MAIN) == ["rtn", "abq", "abq+"]
    assert {name for _, name in CHOICES} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_preset_is_the_default_of_a_spec(method: str) -> None:
    preset = PRESETS[STANDARD]
    values = {"epochs": epochs_of(STANDARD, method) or None, "end_to_end_segments": None, **preset._asdict()}
    del values["pass_segments"]
    assert CalibrationSpec("builtin", W4A4, method, **values) == CalibrationSpec("builtin", W4A4, method)
    assert epochs_of("quick", method) <= epochs_of(STANDARD, method) == epochs_of("own", method)


def test_the_table_has_the_time_of_each_method_and_the_kl_of_finished_runs(
    finished: tuple[Services, Job], tiny_spec: SpecMaker
) -> None:
    services, job = finished
    page: Page = SimpleNamespace(services=services)
    table = cost_table(page, tiny_spec())
    runs = services.runs.frame().set_index("run")
    rows = [row.split("</td><td>") for row in table.split("<tr")[2:]]
    assert [row[0].rpartition(">")[2] for row in rows] == ["rtn", "abq", "abq+"]
    assert [f"{runs.loc[job.run_id, 'kl_mean']:.2f}" in row[2] for row in rows] == [False, True, False]
    assert 'aria-current="true"' in rows[1][0] and all(row[1][0].isdigit() for row in rows)
    other = cost_table(page, tiny_spec("W2A8"))
    assert "W2A8" not in other and other.count("\N{EN DASH}") == 3


def test_without_a_run_the_table_has_no_kl(services: Services, tiny_spec: SpecMaker) -> None:
    """A page is open before the examples are added."""
    page: Page = SimpleNamespace(services=services)
    table = cost_table(page, tiny_spec())
    assert all(name in table for name in MAIN) and table.count("\N{EN DASH}") == len(MAIN)
