"""Row 6: a switch of a calibration accepts only values of its type, in every interface."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from attack_cases import Commands, assert_sentence

pytestmark = pytest.mark.attack(row=6)

WRONG = ['"maybe"', "1", "0", "null", "[]", "[true]", "{a: 1}", "2026-01-01", "1.0", '"tru"', '""', ".nan"]


def test_sweep_files_with_a_wrong_switch_are_refused(
    abq_many: Commands, tmp_path: Path, tried: Callable[[int], None]
) -> None:
    cases = [(switch, value) for switch in ("akl", "mse") for value in WRONG]
    files = [tmp_path / f"{number}.yaml" for number in range(len(cases))]
    for file, (switch, value) in zip(files, cases, strict=True):
        file.write_text(f"models: [builtin]\nprecisions: [W4A4]\nswitches: {{{switch}: {value}}}\n")
    done = abq_many(*(["sweep", str(file), "--dry-run", "--json"] for file in files))
    for one, file, (switch, _) in zip(done, files, cases, strict=True):
        assert_sentence(one, switch, str(file))
    tried(len(cases))


def test_text_is_read_as_the_value_that_it_names(tmp_path: Path) -> None:
    from abq_core.planning.sweep import read_sweep

    file = tmp_path / "sweep.yaml"
    for value in ('"false"', "false", '" FALSE "'):
        file.write_text(f"models: [builtin]\nprecisions: [W4A4]\nswitches: {{akl: {value}}}\n")
        [spec] = read_sweep(file)
        assert spec.switches.akl is False


def test_every_reader_of_switches_refuses_values_of_another_type(tried: Callable[[int], None]) -> None:
    import yaml

    from abq_core.methods import METHODS
    from abq_core.precision import Precision
    from abq_core.spec import CalibrationSpec, SpecError

    spec = CalibrationSpec("builtin", Precision.parse("W4A4"), "abq")
    switches = asdict(METHODS["abq"])
    for value in WRONG:
        for switch in ("akl", "mse", "balance"):
            bad = {**spec.to_dict(), "switches": {**switches, switch: yaml.safe_load(value)}}
            with pytest.raises(SpecError, match=switch):
                CalibrationSpec.from_dict(bad)
    tried(3 * len(WRONG))
