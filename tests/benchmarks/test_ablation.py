"""Ablation: one switch at a time, and the page with the effect of each."""

from dataclasses import fields

import ablation
import pytest
from benchmark_cases import CONDITIONS, figures
from pages.ablation_page import page

from abq_core.precision import Precision
from abq_core.spec import METHODS, Switches


@pytest.mark.parametrize("method", ["abq", "abq+"])
def test_each_change_changes_one_switch(method: str) -> None:
    own = METHODS[method]
    found = ablation.changes(own, Precision.parse("W4A4"))
    changed = {change.partition("=")[0] for change in found}
    idle = {"akl_per_head": not own.akl, "block_targets": not own.end_to_end}
    assert changed == {field.name for field in fields(Switches) if not idle.get(field.name)}
    for change, switches in found.items():
        name, _, value = change.partition("=")
        differing = [f.name for f in fields(Switches) if getattr(switches, f.name) != getattr(own, f.name)]
        assert differing == [name] and str(getattr(switches, name)).lower() == value
    assert {"balance=none", "balance=started", "mse=full", "mse=none"} <= found.keys()


def test_changes_without_effect_are_omitted() -> None:
    assert "symmetric=true" not in ablation.changes(METHODS["abq"], Precision.parse("W2*A8"))
    assert not any(s.learns is False for s in ablation.changes(METHODS["omniquant"], Precision.parse("W2A8")).values())


def test_only_the_chosen_switches_are_changed() -> None:
    asked = ablation.row_specs("builtin", [Precision.parse("W2A8")], ["abq"], ["dlc", "clipping"], CONDITIONS)
    assert [change for method, _, change in asked if method] == ["", "clipping=false", "dlc=false"]


def test_the_page_shows_the_rise_and_error_of_each_change() -> None:
    found = {
        ("", "W16A16", ""): figures([1.0, 1.1, 1.2]),
        ("abq", "W4A4", ""): figures([2.0, 2.1, 2.2]),
        ("abq", "W4A4", "dlc=false"): figures([2.2, 2.3, 2.41]),
        ("abq", "W4A4", "clipping=false"): {"error": "The loss of block 0 is nan in epoch 1."},
        ("abq", "W2*A8", ""): figures([2.0, 2.1, 2.2]),
        ("abq", "W2*A8", "dlc=false"): figures([1.9, 2.1, 2.25]),
    }
    text = page({"/models/small": found}, CONDITIONS, "python benchmarks/ablation.py")
    assert "## `abq` on `small`" in text and "Full precision 3.00" in text
    assert "| change | W4A4 | W2*A8 |" in text
    assert "| `abq` itself | 8.17 ± 0.50 | 8.17 ± 0.50 |" in text
    dlc = next(line for line in text.splitlines() if line.startswith("| `dlc=false`"))
    assert dlc.startswith("| `dlc=false` | **+1.8") and "| -0." in dlc
    assert "| `clipping=false` | no perplexity | - |" in text
