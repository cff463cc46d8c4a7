"""The choice of a method with what each costs and gives, and presets of text and length."""

from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from abq_core.methods import METHOD_TABLE, METHODS, Switches
from abq_core.spec import DEFAULT_END_TO_END_SEGMENTS, CalibrationSpec
from abq_core.text.sources import BUILTIN_TEXT
from app.formatting import MISSING, seconds
from app.services.dataframes import same_evaluation
from app.web import html
from app.web.page.context import Page

MAIN = {"rtn": "rtn: rounding alone", "abq": "abq: the paper", "abq+": "abq+: best"}
CHOICES = [*((label, name) for name, label in MAIN.items()), *((name, name) for name in METHODS if name not in MAIN)]


class Preset(NamedTuple):
    """A text and its length. epochs: None for the method's."""

    data: str
    segments: int
    seq_len: int
    epochs: int | None
    pass_segments: int


STANDARD, OWN = "standard", "own"
PRESETS = {
    "quick": Preset(BUILTIN_TEXT, 8, 128, 4, 128),
    STANDARD: Preset(
        BUILTIN_TEXT, CalibrationSpec.segments, CalibrationSpec.seq_len, None, DEFAULT_END_TO_END_SEGMENTS
    ),
    "paper": Preset("wikitext2", 128, 2048, None, DEFAULT_END_TO_END_SEGMENTS),
}
PRESET_HELP = (
    "quick: to look around. standard: the measured results. paper: 128 x 2,048 tokens of WikiText-2, from the hub. "
    "Other values are below."
)


def epochs_of(preset: str, method: str, components: Switches | None = None) -> int:
    """Epochs that a preset has with a method; 0 if nothing is learned. components: None for the method's."""
    if not (components or METHODS[method]).learns:
        return 0
    chosen = PRESETS[preset].epochs if preset in PRESETS else None
    return METHOD_TABLE[method].epochs if chosen is None else chosen


def cost_table(page: Page, spec: CalibrationSpec) -> str:
    """What each main method costs with the text and length of `spec`, and the KL of runs of this precision made here.

    Raises ModelError.
    """
    runs = runs_made_here(page, spec)
    rows = []
    for method in MAIN:
        other = replace(spec, method=method, switches=None, epochs=None, end_to_end_segments=None)
        shown = spec if method == spec.method else other
        expected = page.services.models.estimate_calibration(shown).expected_seconds
        time = MISSING if expected is None else seconds(expected)
        rows.append((method, time, _range(runs[runs["method"].eq(method)]), method == spec.method))
    return html.render("method_costs.html", rows=rows)


def runs_made_here(page: Page, spec: CalibrationSpec) -> pd.DataFrame:
    """The runs of a model and precision that were evaluated as the newest of them was; examples do not count."""
    runs = page.services.runs.newest_frame()
    runs = runs[~runs["example"]]  # another machine made them
    runs = runs[runs["model"].eq(spec.model) & runs["precision"].eq(str(spec.precision)) & runs["kl_mean"].notna()]
    same = [same_evaluation(row, runs.iloc[0]) for row in runs.to_dict("records")]
    return runs[pd.Series(same, index=runs.index, dtype=bool)]


def _range(runs: pd.DataFrame) -> str:
    """The KL of runs: one value, or the least and the largest."""
    if runs.empty:
        return MISSING
    low, high = f"{runs['kl_mean'].min():.2f}", f"{runs['kl_mean'].max():.2f}"
    return low if low == high else f"{low} to {high}"
