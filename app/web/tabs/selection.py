"""What is chosen on the page (model, precision, run, tab) as one value that all tabs read and the address bar holds."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import pandas as pd

from abq_core.mix import precision_name
from abq_core.precision import PrecisionError

TABS = ("explore", "calibrate", "distributions", "generate", "throughput", "compare")
DEFAULT_MODEL, DEFAULT_PRECISION = "builtin", "W2*A8"


@dataclass(frozen=True)
class Selection:
    """`run` is "" where no run of this model and precision is chosen. `dark` follows the browser."""

    model: str = DEFAULT_MODEL
    precision: str = DEFAULT_PRECISION
    run: str = ""
    tab: str = "explore"
    dark: bool = False

    @classmethod
    def from_json(cls, text: str | None) -> "Selection":
        """Read what the page holds; what is missing or odd becomes the default."""
        try:
            data = json.loads(text or "{}")
        except json.JSONDecodeError:
            data = {}
        return cls.from_mapping(data if isinstance(data, Mapping) else {})

    @classmethod
    def from_mapping(cls, data: Mapping[str, object]) -> "Selection":
        words = {name: str(data.get(name) or getattr(cls, name))[:300] for name in ("model", "precision", "run", "tab")}
        if words["tab"] not in TABS:
            words["tab"] = "explore"
        return cls(**words, dark=data.get("dark") is True)

    def to_json(self) -> str:
        """As JSON.stringify writes it, so that a round trip through the page is no change."""
        return json.dumps(asdict(self), separators=(",", ":"), ensure_ascii=False)

    def settled(self, runs: pd.DataFrame) -> "Selection":
        """The same choice with its parts in agreement: a run brings its model and precision, which in turn find a run.

        Raises PrecisionError where the precision cannot be read.
        """
        if self.run:
            chosen = runs[runs["run"].eq(self.run)]
            if len(chosen):
                row = chosen.iloc[0]
                return replace(self, model=str(row["model"]), precision=str(row["precision"]))
        precision = precision_name(self.precision)
        return replace(self, precision=precision, run=newest_run(runs, self.model, precision))


def newest_run(runs: pd.DataFrame, model: str, precision: str) -> str:
    """The newest finished run of this model and precision, "" where there is none; `abq` before other methods."""
    found = runs[runs["model"].eq(model) & runs["precision"].eq(precision) & runs["state"].eq("succeeded")]
    found = found[found["run"].ne("")]
    best = found[found["method"].eq("abq")]
    return str((best if len(best) else found)["run"].iloc[0]) if len(found) else ""


def run_choices(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Finished runs as (label, run id) for a dropdown."""
    finished = runs[runs["run"].ne("") & runs["state"].eq("succeeded")]
    return [(f"{row.precision} {row.method} ({row.run})", str(row.run)) for row in finished.itertuples()]


def readable(precision: str) -> bool:
    """True where the text is a precision, or looks like the name of a mix."""
    try:
        precision_name(precision)
    except PrecisionError:
        return False
    return True
