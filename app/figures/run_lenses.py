"""The lens of a run: rounded, corrected by a calibration, or imported."""

import pandas as pd

from abq_core.imports.spec import METHOD as IMPORTED


def lens_of(method: str) -> str:
    """A run's lens: full precision, rounded, corrected by a calibration, or imported."""
    return {"none": "full", "rtn": "rounded", IMPORTED: "imported"}.get(method, "corrected")


def under_its_lens(frame: pd.DataFrame, method: str) -> pd.DataFrame:
    """Diagnostics of a run with its own result under the run's lens.

    Diagnostics store every calibration's result as "corrected". `rtn` only rounds: its result becomes "rounded" and
    replaces the rows, or the column, of rounding alone. Frames of other methods, and without lenses, are unchanged.
    """
    if lens_of(method) != "rounded":
        return frame
    if "corrected" in frame:
        return frame.drop(columns="rounded").rename(columns={"corrected": "rounded"})
    if "lens" not in frame or not frame["lens"].eq("corrected").any():
        return frame
    own = frame[frame["lens"].ne("rounded")]
    return own.assign(lens=own["lens"].replace("corrected", "rounded"))
