"""Text of options that several commands share."""

import pytest

from abq_core.methods import METHODS, SpecError
from app.cli.options import switch_option


def test_switches_start_from_those_of_the_method() -> None:
    assert switch_option("omniquant", []) == METHODS["omniquant"]
    found = switch_option("abq", ["akl=False", "mse=full", "akl_per_head=true"])
    assert (found.akl, found.mse, found.akl_per_head, found.dlc) == (False, "full", True, True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["akl"], "not NAME=VALUE with a name of balance, clipping"),
        (["alk=false"], "not NAME=VALUE with a name of balance, clipping"),
        (["akl=no"], "--switch: akl is 'no': use false or true"),
        (["balance=true"], "--switch: balance is 'true': use none, started or learned"),
        (["dlc=false", "akl=false", "mse=none"], "no loss is on"),
    ],
)
def test_what_is_no_switch_or_no_value_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        switch_option("abq", texts)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(SpecError, match="'magic' is not a method"):
        switch_option("magic", ["akl=false"])
