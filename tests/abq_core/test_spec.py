"""A calibration as a value: canonical, validated, stored and read back."""

import json
import shlex
from dataclasses import asdict, replace
from typing import Any

import pytest

from abq_core.mix import MixedLinear, ModelPrecision, PrecisionMix
from abq_core.precision import Precision, PrecisionError
from abq_core.spec import METHODS, CalibrationSpec, SpecError, Switches

W4A4 = Precision.parse("W4A4")
MIX = PrecisionMix(tuple(MixedLinear(block, "q", Precision.parse("W2A8"), 64) for block in (0, 1)))


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


@pytest.mark.parametrize(
    ("explicit", "short"),
    [
        ({"epochs": 20}, {}),
        ({"switches": METHODS["abq"]}, {}),
        ({"end_to_end_segments": 64}, {}),
        ({"method": "abq+", "epochs": 10, "end_to_end_segments": 1024}, {"method": "abq+"}),
        ({"method": "rtn", "epochs": 7, "end_to_end_segments": 64, "switches": METHODS["rtn"]}, {"method": "rtn"}),
        ({"method": "smoothquant", "epochs": 0}, {"method": "smoothquant"}),
        ({"method": "abq+", "epochs": 0, "end_to_end_segments": 64}, {"method": "abq+", "epochs": 0}),
    ],
)
@pytest.mark.parametrize("precision", [W4A4, MIX])
def test_values_that_change_nothing_leave_an_equal_spec(
    explicit: dict[str, Any], short: dict[str, Any], precision: ModelPrecision
) -> None:
    one, other = (CalibrationSpec("builtin", precision, **values) for values in (explicit, short))
    assert one == other and hash(one) == hash(other)
    assert one.to_dict() == other.to_dict() and one.command_line() == other.command_line()
    assert CalibrationSpec.from_dict(json.loads(json.dumps(one.to_dict()))) == other


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 19},
        {"epochs": 0},
        {"method": "omniquant"},
        {"method": "abq+", "end_to_end_segments": 64},
        {"switches": replace(METHODS["abq"], akl=False)},
        {"data": "wikitext2"},
        {"seed": 1},
        {"segments": 31},
        {"seq_len": 128},
        {"device": "cuda"},
    ],
)
def test_values_that_change_the_calibration_leave_another_spec(change: dict[str, Any]) -> None:
    base = {"method": change.get("method", "abq")} if "end_to_end_segments" in change else {}
    assert CalibrationSpec("builtin", W4A4, **change) != CalibrationSpec("builtin", W4A4, **base)


@pytest.mark.parametrize("method", ["rtn", "smoothquant"])
@pytest.mark.parametrize("change", [{"data": "wikitext2"}, {"seed": 1}, {"segments": 31}, {"seq_len": 128}])
def test_text_and_seed_count_even_if_nothing_is_learned(method: str, change: dict[str, Any]) -> None:
    """Diagnostics and evaluation read text too."""
    assert CalibrationSpec("builtin", W4A4, method, **change) != CalibrationSpec("builtin", W4A4, method)


def test_what_earlier_versions_stored_reads_to_equal_specs() -> None:
    fresh = CalibrationSpec("builtin", W4A4, "rtn", segments=8)
    stored = {**fresh.to_dict(), "epochs": 20, "end_to_end_segments": 1024, "switches": asdict(METHODS["rtn"])}
    assert CalibrationSpec.from_dict(stored) == fresh
    paper = {
        name: getattr(METHODS["abq"], name) for name in ("balance", "clipping", "compensation", "dlc", "akl", "mse")
    }
    oldest = {"model": "builtin", "precision": "W4A4", "method": "abq", "epochs": 20, "switches": paper}
    assert CalibrationSpec.from_dict(oldest) == CalibrationSpec("builtin", W4A4)


def test_a_batch_is_at_most_all_segments_and_one_if_nothing_is_learned() -> None:
    spec = CalibrationSpec("builtin", W4A4, "abq+", batch=4)
    assert CalibrationSpec.from_dict(spec.to_dict()) == spec and "--batch 4" in spec.command_line()
    assert replace(spec, segments=3, batch=100).batch == 3
    assert replace(spec, method="rtn") == CalibrationSpec("builtin", W4A4, "rtn")


def test_values_in_force_are_those_of_the_method_unless_changed() -> None:
    spec = CalibrationSpec("builtin", W4A4, "abq+")
    assert (spec.active_epochs, spec.active_end_to_end_segments) == (10, 1024)
    assert (replace(spec, epochs=3).active_epochs, replace(spec, end_to_end_segments=5).active_end_to_end_segments) == (
        3,
        5,
    )
    assert CalibrationSpec("builtin", W4A4, "abq", end_to_end_segments=5).active_end_to_end_segments == 0


def test_stored_switches_of_the_wrong_type_are_refused() -> None:
    stored = {"model": "builtin", "precision": "W4A4", "switches": {**vars(METHODS["abq"]), "akl": "maybe"}}
    with pytest.raises(SpecError, match="akl is 'maybe': use false or true"):
        CalibrationSpec.from_dict(stored)
