"""The main job, headless: the built-in model at W4A4 and W2*A8, rounded and corrected, measured and reported."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from abq_core.evaluation.perplexity import perplexity_gap
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.jobs.foreground import bring_to_end
from app.services import ServiceError, Services
from app.services.registry import BUILTIN

PRECISIONS = ("W4A4", "W2*A8")
METHODS = ("rtn", "abq")
ROW_FIELDS = (
    "run", "precision", "method", "perplexity", "perplexity_stderr", "kl_mean", "same_top", "stored_bits",
    "information_bits", "weight_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Amount:
    """How much text is read: the defaults take a few minutes on 2 cores."""

    segments: int = 32
    seq_len: int = 256
    epochs: int = 8
    eval_segments: int = 128
    eval_seq_len: int = 512


@dataclass(frozen=True)
class Quickstart:
    """What it found. rows: full precision first, then precision by precision, rounded before corrected."""

    rows: list[dict[str, Any]]
    report: Path
    seconds: float


def run_quickstart(services: Services, amount: Amount, model: str = BUILTIN) -> Quickstart:
    """Run the four jobs in this process, one after the other. Raises ServiceError where one fails."""
    started = time.perf_counter()
    combinations = [(precision, method) for precision in PRECISIONS for method in METHODS]
    runs = []
    for number, (precision, method) in enumerate(combinations, start=1):
        spec = CalibrationSpec(
            model=model,
            precision=Precision.parse(precision),
            method=method,
            segments=amount.segments,
            seq_len=amount.seq_len,
            epochs=amount.epochs,
            device=services.settings.device,
        )
        label = f"{number} of {len(combinations)}  {precision} {method}"
        evaluation = (amount.eval_segments, amount.eval_seq_len)
        job = bring_to_end(services, services.jobs.submit(spec), label, evaluation)
        if job.state != "succeeded":
            raise ServiceError(f"Job {job.id} ({precision} {method}) {job.state}. {job.error or ''}".strip())
        runs.append(job.run_id)
    path = services.settings.reports_dir / f"quickstart-{datetime.now():%Y%m%d-%H%M%S}.html"
    return Quickstart(_rows(services, runs), services.reports.write(runs, path), time.perf_counter() - started)


def _rows(services: Services, runs: list[str]) -> list[dict[str, Any]]:
    """A row a run below full precision's, with how far its perplexity is above the next better row's (paired)."""
    frame = services.runs.frame()
    model = services.runs.get(runs[0]).model
    full = frame[(frame["run"] == "") & (frame["model"] == model)].iloc[[0]].to_dict("records")
    calibrated = frame.set_index("run", drop=False).loc[runs].to_dict("records")
    rows = [{name: row[name] for name in ROW_FIELDS} for row in [*full, *calibrated]]
    by_name = {(row["precision"], row["method"]): row for row in rows}
    losses = {row["run"]: _segment_losses(services, model, row["run"]) for row in rows}
    for precision in PRECISIONS:
        better = rows[0]
        for method in reversed(METHODS):
            row = by_name[(precision, method)]
            gap, stderr = perplexity_gap(losses[better["run"]], losses[row["run"]])
            row |= {"above": better["method"], "gap": gap, "gap_stderr": stderr}
            better = row
    return rows


def _segment_losses(services: Services, model: str, run_id: str) -> list[float]:
    """The losses behind the latest evaluation of a run, or of the model at full precision where run_id is empty."""
    records = services.storage.measurements.evaluations(run_id or None)
    return next(r.values["segment_losses"] for r in records if (r.run_id or "") == run_id and r.model == model)
