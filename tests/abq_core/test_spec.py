"""A calibration as a value."""

import shlex

import pytest

from abq_core.precision import Precision, PrecisionError
from abq_core.spec import METHODS, CalibrationSpec, SpecError, Switches

W4A4 = Precision.parse("W4A4")


def test_survives_the_trip_through_json() -> None:
    switches = Switches("learned", clipping=False, compensation=False, dlc=True, akl=False, mse="none")
    spec = CalibrationSpec("builtin", Precision.parse("W2*A8g64"), "abq", switches, epochs=3, seed=7)
    assert CalibrationSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "  "}, "No model"),
        ({"method": "magic"}, "rtn, smoothquant, omniquant, abq"),
        ({"segments": 0}, "from 1 to"),
        ({"seq_len": 3}, "from 8 to"),
        ({"precision": "FP16"}, "quantizes nothing"),
        ({"colour": 1}, "Unknown field 'colour'"),
        ({"data": ""}, "No data"),
        ({"segments": "many"}, "from 1 to"),
    ],
)
def test_refuses_with_the_field_and_the_way_out(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        CalibrationSpec.from_dict({"model": "builtin", "precision": "W4A4", **change})


def test_a_missing_precision_and_a_wrong_one_are_named() -> None:
    with pytest.raises(SpecError, match="precision"):
        CalibrationSpec.from_dict({"model": "builtin"})
    with pytest.raises(PrecisionError, match="W99"):
        CalibrationSpec.from_dict({"model": "builtin", "precision": "W99"})


def test_learning_needs_a_loss() -> None:
    with pytest.raises(SpecError, match="no loss"):
        Switches("learned", clipping=True, compensation=False, dlc=False, akl=False, mse="none")


def test_methods_that_learn_nothing_have_no_epochs() -> None:
    epochs = {name: CalibrationSpec("builtin", W4A4, name).active_epochs for name in METHODS}
    assert epochs == {"rtn": 0, "smoothquant": 0, "omniquant": 20, "abq": 20, "abq+": 10}


def test_the_command_line_says_what_differs_from_the_defaults() -> None:
    assert CalibrationSpec("builtin", W4A4).command_line() == "abq calibrate builtin --precision W4A4 --method abq"
    switches = Switches("learned", clipping=True, compensation=True, dlc=True, akl=False, mse="both")
    spec = CalibrationSpec("a folder", Precision.parse("W2*A8"), "abq", switches, epochs=2)
    words = shlex.split(spec.command_line())
    assert words[:3] == ["abq", "calibrate", "a folder"] and "W2*A8" in words
    assert words[-4:] == ["--epochs", "2", "--switch", "akl=false"]


def test_an_end_to_end_pass_needs_something_that_is_learned() -> None:
    with pytest.raises(SpecError, match="rounding"):
        Switches("none", clipping=False, compensation=False, dlc=True, akl=False, mse="none", end_to_end=True)
