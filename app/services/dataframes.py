"""Rows of storage as DataFrames for tables, figures and downloads."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas

from abq_core.imports.spec import is_import
from abq_core.precision import PrecisionError
from abq_core.spec import read_precision
from abq_core.text.sources import is_name
from storage.history import LogLine, LossRecord
from storage.jobs import Job
from storage.measurements import EvaluationRecord, ThroughputRecord
from storage.runs import Run

JOB_COLUMNS = [
    "job", "run", "model", "precision", "method", "state", "progress", "message", "eta_seconds", "blocks_done",
    "blocks_total", "seconds", "alive", "created", "error",
]  # fmt: skip
RUN_COLUMNS = [
    "run", "model", "precision", "method", "state", "perplexity", "perplexity_stderr", "kl_mean", "kl_median", "kl_p99",
    "kl_floor", "same_top", "task_score", "task_stderr", "tasks", "stored_bits", "information_bits", "weight_bytes",
    "bits_per_parameter", "model_bytes", "protocol", "data", "split", "segments", "seq_len", "created", "note",
    "example",
]  # fmt: skip
EVALUATED = [
    "perplexity", "perplexity_stderr", "kl_mean", "kl_median", "kl_p99", "kl_floor", "same_top", "weight_bytes",
    "bits_per_parameter", "model_bytes", "data", "segments", "seq_len",
]  # fmt: skip
TASK_COLUMNS = [
    "run", "model", "precision", "method", "task", "headline", "metrics", "stderr", "samples", "of", "shots", "version",
    "source", "engine", "created",
]  # fmt: skip
ACCURACIES = ("acc", "acc_norm", "exact_match")  # metrics that are averaged over tasks
LOSS_COLUMNS = ["block", "epoch", "term", "value"]
BUCKET_COLUMNS = ["low", "high", "share", "kl_mean"]
WINDOWS = "windows"  # the default protocol
MEASURED_ON = ["protocol", "data", "split", "segments", "seq_len"]  # columns: the text of an evaluation
_PARTS = {"evaluation": " (last tenth)"}
Protocol = tuple[object, ...]  # see `protocol`


def jobs_frame(jobs: Sequence[Job], now: datetime) -> pandas.DataFrame:
    """One row per job, newest first. alive: its worker holds the lease.

    seconds: run time so far.
    """
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


def runs_frame(
    runs: Iterable[Run],
    evaluations: Iterable[EvaluationRecord],
    task_scores: Sequence[EvaluationRecord] = (),
    baselines: Iterable[EvaluationRecord] = (),
) -> pandas.DataFrame:
    """One row per run with its latest evaluation, and rows of models at full precision.

    A model at full precision has run "" and method "none", and one row for each protocol with which its runs were
    evaluated last, so that an evaluation on another text replaces no row that runs are compared with.
    baselines: of models at full precision that came with examples; they count where this installation measured none.
    example: the row came with the program.
    tasks: number of tasks.  task_score: mean of their latest accuracies, 0 to 1.  task_stderr: of that mean.
    """
    latest: dict[str, EvaluationRecord] = {}
    full: dict[str, dict[Protocol, EvaluationRecord]] = {}
    for record in baselines:
        full.setdefault(record.model, {})[protocol(record.values)] = record
    for record in sorted(evaluations, key=lambda record: record.id):
        if record.run_id is not None:
            latest[record.run_id] = record
        else:
            of_model = full.setdefault(record.model, {})
            of_model.pop(protocol(record.values), None)  # the newest is last
            of_model[protocol(record.values)] = record
    scores: dict[tuple[str, str], list[EvaluationRecord]] = {}
    for record in _newest_of_each_task(task_scores):
        scores.setdefault((record.run_id or "", record.model), []).append(record)
    rows = [
        {
            "run": run.id,
            "model": run.model,
            "precision": run.precision,
            "method": run.method,
            "state": run.state,
            **_bits(run.spec),
            **_scores(latest.get(run.id)),
            **_task_average(scores.get((run.id, run.model), [])),
            "created": run.created_at,
            "note": run.note,
            "example": run.example,
        }
        for run in runs
    ]
    used: dict[str, set[Protocol]] = {}
    for record in latest.values():
        used.setdefault(record.model, set()).add(protocol(record.values))
    for model, found in full.items():
        tasks = scores.get(("", model), [])
        compared = [record for key, record in found.items() if key in used.get(model, ())]
        rows += [_full_row(record, record, tasks) for record in compared or list(found.values())[-1:]]
    rows += [
        _full_row(tasks[0], None, tasks)
        for (run_id, model), tasks in scores.items()
        if not run_id and model not in full
    ]
    return pandas.DataFrame(rows, columns=RUN_COLUMNS).astype({"example": bool})  # also without rows: it is a mask


def protocol(values: Mapping[str, Any]) -> Protocol:
    """What two evaluations must have in common to be compared: protocol, source, segments and the hash of the text.

    Evaluations of earlier versions name no protocol: they read windows.
    """
    text = values.get("text")
    sha256 = text.get("sha256") if isinstance(text, Mapping) else None
    name = values.get("protocol", WINDOWS)
    return name, values.get("data"), values.get("segments"), values.get("seq_len"), sha256


def text_label(values: Mapping[str, Any]) -> str:
    """What an evaluation was measured on, for people: protocol, amount and source, of a file its name and the part."""
    name, data, segments, seq_len, _ = protocol(values)
    source = str(data) if is_name(str(data)) else Path(str(data)).name + _PARTS.get(_split(values), "")
    return f"{name}, {segments} x {seq_len}, {source}"


def same_evaluation(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows of `runs_frame` are of one model, evaluated on the same amount of the same text."""
    return one["model"] == other["model"] and all(one[name] == other[name] for name in MEASURED_ON)


def _split(values: Mapping[str, Any]) -> str:
    """The part of the text that an evaluation read, "" for a file in one of an earlier version."""
    if is_name(str(values.get("data"))):
        return "evaluation"
    text = values.get("text")
    return str(text.get("split", "")) if isinstance(text, Mapping) else ""


def _full_row(
    record: EvaluationRecord, evaluation: EvaluationRecord | None, tasks: Sequence[EvaluationRecord]
) -> dict[str, Any]:
    """The row of a model at full precision. record: the one that it is named and dated after."""
    return {
        "run": "",
        "model": record.model,
        "precision": record.values["precision"],
        "method": "none",
        "state": "succeeded",
        **_bits(record.values),
        **_scores(evaluation),
        **_task_average(tasks),
        "created": record.created_at,
        "note": "",
        "example": record.run_id is not None,
    }


def task_frame(records: Sequence[EvaluationRecord]) -> pandas.DataFrame:
    """The latest score of each task of each run or model, sorted by run, model and task."""
    rows = [
        {**record.values, "run": record.run_id or "", "model": record.model, "created": record.created_at}
        for record in _newest_of_each_task(records)
    ]
    return pandas.DataFrame(rows, columns=TASK_COLUMNS)


def losses_frame(records: Iterable[LossRecord]) -> pandas.DataFrame:
    """Losses in long form: one row per block, epoch and term."""
    rows = [
        {"block": record.block, "epoch": record.step, "term": term, "value": value}
        for record in records
        for term, value in record.terms.items()
    ]
    return pandas.DataFrame(rows, columns=LOSS_COLUMNS)


def throughput_frame(records: Iterable[ThroughputRecord]) -> pandas.DataFrame:
    """Timings in the order given: created, machine, and one column per measured value."""
    rows = [{"created": record.created_at, "machine": record.device, **record.values} for record in records]
    return pandas.DataFrame(rows, columns=None if rows else ["created", "machine", "kind"])


def log_text(lines: Iterable[LogLine]) -> str:
    """A job's log, one line per entry: local time and text."""
    return "\n".join(f"{line.at.astimezone():%H:%M:%S}  {line.text}" for line in lines)


def _bits(values: Mapping[str, Any]) -> dict[str, float]:
    if is_import(values):
        return {"stored_bits": values["stored_bits"]}
    try:
        parsed = read_precision(values)
    except PrecisionError:  # written by a later version
        return {}
    return {"stored_bits": parsed.stored_bits, "information_bits": parsed.information_bits}


def _scores(record: EvaluationRecord | None) -> dict[str, Any]:
    if record is None:
        return {}
    return {
        **{name: record.values.get(name) for name in EVALUATED},
        "protocol": protocol(record.values)[0],
        "split": _split(record.values),
    }


def _newest_of_each_task(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """The last score of each task of each run or model."""
    newest = {(r.run_id or "", r.model, str(r.values["task"])): r for r in sorted(records, key=lambda r: r.id)}
    return [newest[key] for key in sorted(newest)]


def _task_average(records: Sequence[EvaluationRecord]) -> dict[str, Any]:
    """Mean of the tasks' accuracies, with the standard error for independent tasks."""
    found = [record.values for record in records if record.values["headline"] in ACCURACIES]
    if not found:
        return {}
    scores = [values["metrics"][values["headline"]] for values in found]
    errors = [values["stderr"].get(values["headline"], math.nan) for values in found]
    return {
        "task_score": sum(scores) / len(scores),
        "task_stderr": math.hypot(*errors) / len(errors),
        "tasks": len(found),
    }
