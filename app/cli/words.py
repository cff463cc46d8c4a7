"""Numbers as a person reads them: perplexity with its standard error, bytes in MiB, times with three figures."""

from collections.abc import Mapping
from typing import Any

from abq_core.text.sources import TextRecord


def missing(value: object) -> bool:
    """True for None, and for NaN and pandas' NaT, which equal nothing."""
    return value is None or value != value


def perplexity(value: float | None, stderr: float | None) -> str:
    if missing(value) or value is None:
        return "-"
    return f"{value:.2f}" + ("" if missing(stderr) else f" ± {stderr:.2f}")


def share(value: float | None) -> str:
    return "-" if missing(value) or value is None else f"{100 * value:.1f} %"


def bits(value: float | None) -> str:
    """A whole number, or two decimals for the mean of a mix."""
    return "-" if missing(value) or value is None else f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def accuracy(value: float | None, stderr: float | None) -> str:
    """A share as percent, with its standard error."""
    if missing(value) or value is None:
        return "-"
    return f"{100 * value:.1f} %" + ("" if missing(stderr) or stderr is None else f" ± {100 * stderr:.1f}")


TASK_HEADER = ("Task", "Accuracy", "Normalized", "Other", "Questions", "Shots")


def task_cells(row: Mapping[str, Any]) -> list[str]:
    """What one task gave as the cells under TASK_HEADER."""
    metrics, stderr = row["metrics"], row["stderr"]
    others = [f"{name} {metrics[name]:.4g}" for name in metrics if name not in ("acc", "acc_norm")]
    questions = f"{row['samples']:,}" + (f" of {row['of']:,}" if row["samples"] != row["of"] else "")
    return [
        str(row["task"]),
        accuracy(metrics.get("acc"), stderr.get("acc")),
        accuracy(metrics.get("acc_norm"), stderr.get("acc_norm")),
        ", ".join(others) or "-",
        questions,
        str(row["shots"]),
    ]


def task_average(row: Mapping[str, Any]) -> str:
    """The mean accuracy of a run's tasks, and of how many."""
    if missing(row["task_score"]):
        return "-"
    return f"{accuracy(row['task_score'], row['task_stderr'])} ({int(row['tasks'])})"


def nats(value: float | None) -> str:
    return "-" if missing(value) or value is None else f"{value:.4f}"


def mebibytes(value: float | None) -> str:
    return "-" if missing(value) or value is None else f"{value / 2**20:.2f} MiB"


def texts(records: Mapping[str, TextRecord]) -> str:
    """Which texts a run learned from, in one line."""
    return "; end to end on ".join(text(record) for record in records.values()) or "a text that was not recorded"


def text(record: TextRecord) -> str:
    """Which text was read, in one line."""
    name, at, commit = record.source.partition("@")
    documents = f"{record.documents:,} document{'s' * (record.documents != 1)}"
    return (
        f"{len(record.windows):,} windows of {record.seq_len} tokens of {name}{at}{commit[:12]} "
        f"({record.split} split, {documents}), seed {record.seed}, sha256 {record.sha256[:12]}"
    )


def seconds(value: float | None) -> str:
    """Three figures and a unit: 820 ms, 4.52 s, 12 min 5 s."""
    if missing(value) or value is None:
        return "-"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    if value < 100:
        return f"{value:.3g} s"
    return f"{int(value) // 60} min {int(value) % 60} s"
