"""Methods and switches.

One definition, one reader of untyped values, one table in the documentation.
"""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from abq_core.methods import (
    METHOD_TABLE,
    METHODS,
    SWITCHES,
    SpecError,
    Switches,
    default_switches,
    read_switches,
    switch_table,
)

ABQ = METHODS["abq"]


def test_every_field_of_switches_is_defined_once_with_labels_and_help() -> None:
    assert list(SWITCHES) == [one.name for one in fields(Switches)]
    labels = [label for info in SWITCHES.values() for label in info.labels]
    assert len(labels) == len(set(labels))
    for info in SWITCHES.values():
        assert len(info.labels) == len(info.values) - 1 and info.help.endswith(".")
        assert info.part_of is None or info.part_of in SWITCHES


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"akl": "false"}, replace(ABQ, akl=False)),  # a string in YAML or on the command line
        ({"akl": " False "}, replace(ABQ, akl=False)),
        ({"akl": False, "rounding": "TRUE"}, replace(ABQ, akl=False, rounding=True)),
        ({"balance": "Started", "mse": "full"}, replace(ABQ, balance="started", mse="full")),
        ({}, ABQ),
    ],
)
def test_untyped_values_become_typed_ones(changes: dict[str, object], expected: Switches) -> None:
    assert read_switches(changes, ABQ) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"akl": "no"}, "akl is 'no': use false or true"),
        ({"akl": 1}, "akl is '1': use false or true"),
        ({"akl": None}, "akl is 'None'"),
        ({"balance": True}, "balance is 'True': use none, started or learned"),
        ({"mse": ["full"]}, "mse is .*: use none, full or both"),
        ({"alk": "false"}, "no switch 'alk': use balance, clipping"),
        ({"dlc": "false", "akl": "false", "mse": "none"}, "no loss is on"),
    ],
)
def test_other_values_are_refused_by_the_name_of_the_switch(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_switches(changes, ABQ)


@pytest.mark.parametrize("wrong", [{"akl": "false"}, {"akl": 0}, {"balance": True}, {"balance": "off"}])
def test_switches_are_never_built_from_values_that_are_merely_truthy(wrong: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="use "):
        replace(ABQ, **wrong)


def test_a_stored_list_may_lack_switches_that_were_added_later_but_not_those_of_the_paper() -> None:
    paper = {name: getattr(ABQ, name) for name in ("balance", "clipping", "compensation", "dlc", "akl", "mse")}
    assert read_switches(paper) == ABQ
    del paper["dlc"]
    with pytest.raises(SpecError, match="'dlc' is missing"):
        read_switches(paper)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'magic' is not a method: use one of rtn, smoothquant, omniquant, abq, abq\+"):
        default_switches("magic")
    assert all(default_switches(name) == METHOD_TABLE[name].switches for name in METHODS)


def test_changes_from_another_list_are_named_in_order() -> None:
    assert replace(ABQ, akl=False, balance="started").changes_from(ABQ) == {"balance": "started", "akl": False}


def test_costs_add_up_over_the_switches_that_have_an_effect() -> None:
    rtn = METHODS["rtn"].cost
    assert rtn.learned_copies == rtn.weight_step_seconds == rtn.map_copies == 0
    per_head = replace(ABQ, akl_per_head=True)
    assert per_head.cost.map_copies > ABQ.cost.map_copies > 0
    assert replace(per_head, akl=False).cost.map_copies == 0
    assert METHODS["abq+"].cost.weight_step_seconds == pytest.approx(9.4e-9 + 3.4e-9)


def test_the_documentation_has_the_table_of_all_switches() -> None:
    text = (Path(__file__).parents[2] / "docs/method.md").read_text("utf-8")
    assert switch_table() in text, "run `python -c 'from abq_core.methods import switch_table; print(switch_table())'`"
