"""The selection: model, precision, run and tab as one value that all tabs read.

The address bar holds it.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace

import pandas as pd

from abq_core.imports.spec import METHOD as IMPORTED
from abq_core.mix import precision_name
from abq_core.precision import PrecisionError

TABS = ("explore", "calibrate", "distributions", "generate", "throughput", "compare")
DEFAULT_MODEL, DEFAULT_PRECISION = "builtin", "W2*A8"
LONGEST = 300  # characters of each part that are read from an address


@dataclass(frozen=True)
class Selection:
    """The selection on a page. run: "" without a run. dark: the browser prefers dark mode."""

    model: str = DEFAULT_MODEL
    precision: str = DEFAULT_PRECISION
    run: str = ""
    tab: str = "explore"
    dark: bool = False

    @classmethod
    def from_json(cls, text: str | None) -> "Selection":
        """Read the page's JSON. Missing or malformed parts take their defaults."""
        try:
            data = json.loads(text or "{}")
        except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, deep nesting
            data = {}
        return cls.from_mapping(data if isinstance(data, Mapping) else {})

    @classmethod
    def from_mapping(cls, data: Mapping[str, object]) -> "Selection":
        """Read a selection from untyped values; missing or invalid ones get their default."""
        parts = {
            name: str(data.get(name) or getattr(cls, name))[:LONGEST] for name in ("model", "precision", "run", "tab")
        }
        if parts["tab"] not in TABS:
            parts["tab"] = "explore"
        return cls(**parts, dark=data.get("dark") is True)

    def to_json(self) -> str:
        """The selection as JSON.stringify writes it, so that a round trip is exact."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False)

    def settled(self, runs: pd.DataFrame) -> "Selection":
        """The selection made consistent: a run sets the model and, unless it is an import, the precision.

        Without one, the newest matching run is taken.
        Raises PrecisionError if the precision cannot be parsed.
        """
        if self.run:
            found = runs[runs["run"].eq(self.run)]
            if len(found):
                row = found.iloc[0]
                imported = str(row["method"]) == IMPORTED  # its name is no precision
                precision = self.precision if imported else str(row["precision"])
                return replace(self, model=str(row["model"]), precision=precision)
        precision = precision_name(self.precision)
        return replace(self, precision=precision, run=newest_run(runs, self.model, precision))

    def after(self, runs: pd.DataFrame, known: Collection[str]) -> "Selection":
        """The settled selection when runs that are not in `known` have finished: they replace a selected example."""
        new = runs[~runs["run"].isin(known) & ~runs["example"]]
        replaces = runs.loc[runs["run"].eq(self.run), "example"].any() and newest_run(new, self.model, self.precision)
        return (replace(self, run="") if replaces else self).settled(runs)


def newest_run(runs: pd.DataFrame, model: str, precision: str) -> str:
    """The newest finished run of a model and precision, "" without one.

    Runs made here take precedence over examples, then runs of `abq`.
    """
    found = runs[runs["model"].eq(model) & runs["precision"].eq(precision) & runs["state"].eq("succeeded")]
    found = found[found["run"].ne("")]
    found = found[~found["example"]] if (~found["example"]).any() else found
    best = found[found["method"].eq("abq")]
    return str((best if len(best) else found)["run"].iloc[0]) if len(found) else ""


def run_choices(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Finished runs as (label, run id) for a dropdown."""
    finished = runs[runs["run"].ne("") & runs["state"].eq("succeeded")]
    return [(_run_label(row), str(row["run"])) for row in finished.to_dict("records")]


def _run_label(row: Mapping[str, object]) -> str:
    return f"{row['precision']} {row['method']} ({'example' if row['example'] else row['run']})"


def readable(precision: str) -> bool:
    """True if the text is a precision or has the form of a mix's name."""
    try:
        precision_name(precision)
    except PrecisionError:
        return False
    return True
