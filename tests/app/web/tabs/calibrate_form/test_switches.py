"""The components of a method as checkboxes."""

from dataclasses import replace

import pytest

from abq_core.methods import METHODS, SpecError
from app.web.tabs.calibrate_form import switches


@pytest.mark.parametrize("method", METHODS)
def test_boxes_and_switches_are_the_same_thing(method: str) -> None:
    boxes = switches.to_boxes(METHODS[method])
    assert switches.from_boxes(boxes) == METHODS[method]
    assert switches.from_boxes(list(reversed(boxes))) == METHODS[method]
    assert switches.changed_boxes(boxes, method) == ""


def test_a_stronger_box_implies_the_weaker_ones() -> None:
    found = switches.from_boxes(["learned balance", "MSE on quantized input too", "AKL per head"])
    assert (found.balance, found.mse, found.akl, found.akl_per_head) == ("learned", "both", True, True)
    alone = replace(METHODS["abq+"], end_to_end=False)
    assert switches.from_boxes(switches.to_boxes(alone)) == alone, "block targets do not turn the pass on again"


def test_changes_are_named_in_the_order_of_the_form() -> None:
    boxes = switches.to_boxes(replace(METHODS["abq"], dlc=False, rounding=True))
    assert switches.changed_boxes(boxes, "abq") == "learned rounding on, DLC off"


def test_boxes_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(SpecError, match="no loss is on"):
        switches.from_boxes(["learned clipping"])
