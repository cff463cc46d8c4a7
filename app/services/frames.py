"""Rows of storage as DataFrames, and one job by the id that a person typed. No arithmetic."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pandas

from abq_core.precision import Precision, PrecisionError
from storage.history import LogLine, LossRecord
from storage.jobs import Job, Jobs
from storage.measurements import EvaluationRecord, ThroughputRecord
from storage.runs import Run

JOB_COLUMNS = [
    "job", "run", "model", "precision", "method", "state", "progress", "message", "eta_seconds", "blocks_done",
    "blocks_total", "seconds", "alive", "created", "error",
]  # fmt: skip
RUN_COLUMNS = [
    "run", "model", "precision", "method", "state", "perplexity", "perplexity_stderr", "kl_mean", "kl_median", "kl_p99",
    "same_top", "stored_bits", "information_bits", "weight_bytes", "data", "segments", "seq_len", "created", "note",
]  # fmt: skip
EVALUATED = [
    "perplexity", "perplexity_stderr", "kl_mean", "kl_median", "kl_p99", "same_top", "weight_bytes", "data", "segments",
    "seq_len",
]  # fmt: skip
LOSS_COLUMNS = ["block", "epoch", "term", "value"]


def find_job(jobs: Jobs, job_or_run: str) -> Job:
    """A job by its id, or the newest job of a run by the run's id. Raises JobNotFoundError, RunNotFoundError."""
    text = job_or_run.strip()
    return jobs.for_run(text) if text.startswith("r-") else jobs.get(text)


def jobs_frame(jobs: Sequence[Job], now: datetime) -> pandas.DataFrame:
    """One row a job, newest first. `alive`: its worker holds the lease; `seconds`: how long it ran so far."""
    rows = [
        {
            "job": job.id,
            "run": job.run_id,
            **{name: job.spec.get(name) for name in ("model", "precision", "method")},
            "state": job.state,
            "progress": job.progress,
            "message": job.message if job.state in ("queued", "running") else "",
            "eta_seconds": job.eta_seconds,
            "blocks_done": job.blocks_done,
            "blocks_total": job.blocks_total,
            "seconds": ((job.finished_at or now) - job.started_at).total_seconds() if job.started_at else None,
            "alive": job.state == "running" and job.lease_until is not None and job.lease_until > now,
            "created": job.created_at,
            "error": job.error or "",
        }
        for job in jobs
    ]
    return pandas.DataFrame(rows, columns=JOB_COLUMNS)


def runs_frame(runs: Iterable[Run], evaluations: Iterable[EvaluationRecord]) -> pandas.DataFrame:
    """One row a run with its latest evaluation; a row with run "" and method "none" a model at full precision."""
    latest: dict[tuple[str, str], EvaluationRecord] = {}
    for record in sorted(evaluations, key=lambda record: record.id):
        latest[(record.run_id or "", record.model)] = record
    rows = [
        {
            "run": run.id,
            "model": run.model,
            "precision": run.precision,
            "method": run.method,
            "state": run.state,
            **_bits(run.precision),
            **_scores(latest.get((run.id, run.model))),
            "created": run.created_at,
            "note": run.note,
        }
        for run in runs
    ]
    rows += [
        {
            "run": "",
            "model": model,
            "precision": record.values["precision"],
            "method": "none",
            "state": "succeeded",
            **_bits(record.values["precision"]),
            **_scores(record),
            "created": record.created_at,
            "note": "",
        }
        for (run_id, model), record in latest.items()
        if not run_id
    ]
    return pandas.DataFrame(rows, columns=RUN_COLUMNS)


def losses_frame(records: Iterable[LossRecord]) -> pandas.DataFrame:
    """Losses in long form, for a figure with one line a term."""
    rows = [
        {"block": record.block, "epoch": record.step, "term": term, "value": value}
        for record in records
        for term, value in record.terms.items()
    ]
    return pandas.DataFrame(rows, columns=LOSS_COLUMNS)


def throughput_frame(records: Iterable[ThroughputRecord]) -> pandas.DataFrame:
    """Stored timings, newest first: when, on what device, and the measured values spread over columns."""
    rows = [{"created": record.created_at, "device": record.device, **record.values} for record in records]
    return pandas.DataFrame(rows, columns=None if rows else ["created", "device", "kind"])


def log_text(lines: Iterable[LogLine]) -> str:
    """A job's log as lines of local time and text."""
    return "\n".join(f"{line.at.astimezone():%H:%M:%S}  {line.text}" for line in lines)


def _bits(precision: str) -> dict[str, float]:
    try:
        parsed = Precision.parse(precision)
    except PrecisionError:  # a run of a later version
        return {}
    return {"stored_bits": parsed.stored_bits, "information_bits": parsed.information_bits}


def _scores(record: EvaluationRecord | None) -> dict[str, Any]:
    return {name: record.values.get(name) for name in EVALUATED} if record else {}
