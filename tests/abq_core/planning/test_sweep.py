"""The file of a sweep: its product, and what it refuses."""

from pathlib import Path

import pytest

from abq_core.planning.sweep import SweepError, read_sweep
from abq_core.precision import PrecisionError
from abq_core.spec import SpecError


def write(folder: Path, text: str) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


def test_every_model_at_every_precision_with_every_method(tmp_path: Path) -> None:
    text = "models: [builtin, ./tiny]\nprecisions: [W4A4, 'W2*A8']\nmethods: [rtn, abq]\nsegments: 8\nseeds: [0, 1]\n"
    specs = read_sweep(write(tmp_path, text))
    assert len(specs) == 16
    assert [(s.model, str(s.precision), s.method, s.seed) for s in specs[:3]] == [
        ("builtin", "W4A4", "rtn", 0),
        ("builtin", "W4A4", "rtn", 1),
        ("builtin", "W4A4", "abq", 0),
    ]
    assert {s.segments for s in specs} == {8}


def test_duplicates_are_dropped_and_abq_is_the_default_method(tmp_path: Path) -> None:
    specs = read_sweep(write(tmp_path, "models: [builtin]\nprecisions: [W4A4, w4a4]\n"))
    assert [s.method for s in specs] == ["abq"]


def test_switches_change_each_methods_own(tmp_path: Path) -> None:
    text = "models: [builtin]\nprecisions: [W2A8]\nmethods: [abq, omniquant]\nswitches: {mse: both, clipping: false}\n"
    abq, omniquant = read_sweep(write(tmp_path, text))
    assert abq.switches is not None and omniquant.switches is not None
    assert abq.switches.dlc and not omniquant.switches.dlc
    assert not abq.switches.clipping and omniquant.switches.mse == "both"


def test_explicit_defaults_make_an_equal_sweep(tmp_path: Path) -> None:
    plain = "models: [builtin]\nprecisions: [W2A8]\n"
    written_out = plain + "methods: [abq, abq]\nepochs: 20\nend_to_end_segments: 64\nswitches: {akl: true, mse: both}\n"
    assert read_sweep(write(tmp_path, written_out)) == read_sweep(write(tmp_path, plain))


@pytest.mark.parametrize("value", ["false", "'false'", "False"])
def test_a_switch_is_off_however_its_value_is_quoted(tmp_path: Path, value: str) -> None:
    (spec,) = read_sweep(write(tmp_path, f"models: [builtin]\nprecisions: [W2A8]\nswitches: {{akl: {value}}}\n"))
    assert spec.active_switches.akl is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no settings"),
        ("- builtin", "has no settings"),
        ("models: [a\n", "is not YAML"),
        ("precisions: [W4A4]", "models is None: give a list"),
        ("models: builtin\nprecisions: [W4A4]", "models is 'builtin': give a list"),
        ("models: []\nprecisions: [W4A4]", "give a list"),
        ("models: [builtin]\nprecisions: [W4A4]\nepoch: 3", "'epoch' is unknown: use models"),
        ("models: [builtin]\nprecisions: [W4A4]\nswitches: {alk: false}", "no switch 'alk'"),
        ("models: [builtin]\nprecisions: [W4A4]\nswitches: {akl: maybe}", "akl is 'maybe': use false or true"),
        ("models: [builtin]\nprecisions: [W4A4]\nswitches: akl", "write lines such as"),
        ("models: [builtin]\nprecisions: [W4A4]\nseeds: [" + ",".join(map(str, range(10_001))) + "]", "10,001"),
    ],
)
def test_a_file_that_cannot_be_a_sweep_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SweepError, match=says):
        read_sweep(write(tmp_path, text))


def test_errors_of_a_calibration_keep_their_type(tmp_path: Path) -> None:
    with pytest.raises(PrecisionError):
        read_sweep(write(tmp_path, "models: [builtin]\nprecisions: [W44]\n"))
    with pytest.raises(SpecError, match="segments is -1"):
        read_sweep(write(tmp_path, "models: [builtin]\nprecisions: [W4A4]\nsegments: -1\n"))
    with pytest.raises(SpecError, match="is not a method"):
        read_sweep(write(tmp_path, "models: [builtin]\nprecisions: [W4A4]\nmethods: [magic]\n"))


def test_a_missing_or_too_large_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="does not exist"):
        read_sweep(tmp_path / "none.yaml")
    with pytest.raises(SweepError, match="limit is 1,048,576"):
        read_sweep(write(tmp_path, "#" * (1 << 20) + "#"))
