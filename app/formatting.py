"""Numbers as text, formatted in one place for page, command line and reports.

Every function takes the value in its base unit (bytes, seconds, shares of 1, nats) and returns text with the unit.
A missing value (None, NaN, NaT, infinity, or not a number at all) is shown as MISSING.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from abq_core.text.records import TextRecord

if TYPE_CHECKING:  # numpy takes a tenth of a second to import
    from abq_core.models.gguf.weights import StoredWeights

MISSING = "\N{EN DASH}"
BUCKET_HEADER = ("Confidence of full precision", "Tokens", "KL to full")
PROFILE_HEADER = ("Operation", "Time", "Share", "Reads", "Of the bandwidth")
TASK_HEADER = ("Task", "Accuracy", "Normalized", "Other", "Questions", "Shots")
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
_SHARES = ("acc", "exact_match")  # task metrics whose names start so are shares of 1


def printable(text: str) -> str:
    """The text with control characters escaped, so that it cannot move the cursor, set a title or hide other text.

    Escaped: all control characters but newline and tab, marks that reorder text, and lone surrogates.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def number(value: object) -> float | None:
    """A finite float, or None."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def count(value: object) -> str:
    """A whole number with thousands separators: 12,288."""
    shown = number(value)
    return MISSING if shown is None else f"{shown:,.0f}"


def perplexity(value: object, stderr: object = None) -> str:
    """Perplexity with two decimals and its standard error: 15.43 ± 0.12."""
    mean, error = number(value), number(stderr)
    if mean is None:
        return MISSING
    shown = f"{mean:,.2f}" if mean < 1e5 else f"{mean:.2e}"
    return shown + ("" if error is None else f" {_PLUS_MINUS} {error:.2f}")


def nats(value: object) -> str:
    """A KL divergence or a loss in nats: 0.1234 nats."""
    shown = number(value)
    return MISSING if shown is None else f"{shown:.4f} nats"


def kl(mean: object, floor: object = None) -> str:
    """A KL divergence from full precision with its noise floor: 0.1234 nats (floor 0.0002)."""
    noise = number(floor)
    return nats(mean) + ("" if number(mean) is None or noise is None else f" (floor {noise:.1g})")


def bucket(low: float, high: float) -> str:
    """A range of full precision's confidence: below 50 %, 50 to 90 %, above 99 %."""
    if low == 0:
        return f"below {100 * high:g} %"
    return f"above {100 * low:g} %" if high == 1 else f"{100 * low:g} to {100 * high:g} %"


def bucket_cells(row: Mapping[str, Any]) -> list[str]:
    """One bucket of an evaluation's `kl_buckets` as the cells under BUCKET_HEADER."""
    return [bucket(row["low"], row["high"]), percent(row["share"]), nats(row["kl_mean"])]


def bits(value: object) -> str:
    """Bits per weight: a whole number, else two decimals."""
    shown = number(value)
    return MISSING if shown is None else f"{shown:.0f}" if shown == int(shown) else f"{shown:.2f}"


def size(value: object) -> str:
    """Bytes as MiB or GiB: 3.77 MiB, 235 MiB, 1.50 GiB."""
    shown = number(value)
    if shown is None:
        return MISSING
    if shown >= 2**30:
        return f"{shown / 2**30:.2f} GiB"
    return f"{shown / 2**20:.{0 if shown >= 100 * 2**20 else 2}f} MiB"


def seconds(value: object) -> str:
    """A duration with three figures below a minute: 820 ms, 4.52 s.

    From a minute on: 1 min 12 s, 2 h 5 min.
    """
    shown = number(value)
    if shown is None:
        return MISSING
    if 0 < shown < 1e-3:
        return f"{shown * 1e6:.3g} \N{GREEK SMALL LETTER MU}s"
    if 0 < shown < 1:
        return f"{shown * 1e3:.3g} ms"
    if shown < 59.95:
        return f"{shown:.3g} s"
    whole = round(shown)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def tokens_per_second(value: object) -> str:
    """A decode rate with three figures: 24.0 tokens/s."""
    shown = number(value)
    if shown is None:
        return MISSING
    return (f"{shown:#.3g}".rstrip(".") if shown < 999.5 else f"{shown:,.0f}") + " tokens/s"


def percent(share: object) -> str:
    """A share of 1 as percent with one decimal: 87.5 %."""
    shown = number(share)
    return MISSING if shown is None else f"{100 * shown:.1f} %"


def accuracy(value: object, stderr: object = None) -> str:
    """A share of 1 as percent with its standard error: 62.1 % ± 1.4."""
    error = number(stderr)
    return percent(value) + ("" if number(value) is None or error is None else f" {_PLUS_MINUS} {100 * error:.1f}")


def task_metric(metric: str, value: object, stderr: object = None) -> str:
    """One metric of a task with its standard error.

    Accuracies are shown as percent, other metrics with their name.
    """
    if metric.startswith(_SHARES):
        return accuracy(value, stderr)
    mean, error = number(value), number(stderr)
    if mean is None:
        return MISSING
    return f"{metric} {mean:.4g}" + ("" if error is None else f" {_PLUS_MINUS} {error:.2g}")


def task_average(run: Mapping[str, Any]) -> str:
    """Mean accuracy over a run's tasks: 62.1 % ± 1.4 (3).

    The standard error, and in parentheses the number of tasks.
    """
    if number(run["task_score"]) is None:
        return MISSING
    return f"{accuracy(run['task_score'], run['task_stderr'])} ({int(run['tasks'])})"


def task_cells(row: Mapping[str, Any]) -> list[str]:
    """The score of one task as the cells under TASK_HEADER."""
    metrics, stderr = row["metrics"], row["stderr"]
    others = [f"{name} {metrics[name]:.4g}" for name in metrics if name not in ("acc", "acc_norm")]
    questions = count(row["samples"]) + (f" of {count(row['of'])}" if row["samples"] != row["of"] else "")
    return [
        str(row["task"]),
        accuracy(metrics.get("acc"), stderr.get("acc")),
        accuracy(metrics.get("acc_norm"), stderr.get("acc_norm")),
        ", ".join(others) or MISSING,
        questions,
        str(row["shots"]),
    ]


def profile_cells(profile: Mapping[str, Any]) -> list[list[str]]:
    """A profile of `ThroughputService.profile_decode` as the cells under PROFILE_HEADER: its parts, then their sum."""
    rows = []
    for part in profile["parts"]:
        share = percent(part["seconds"] / profile["seconds"])
        reached = bandwidth_share(part, profile["read_gb_per_second"])
        rows.append([part["kind"], seconds(part["seconds"]), share, size(part["nbytes"] or None), percent(reached)])
    return [*rows, ["one token", seconds(profile["seconds"]), percent(1), MISSING, MISSING]]


def bandwidth_share(part: Mapping[str, Any], gb_per_second: float) -> float | None:
    """The share of the memory bandwidth that a part of a profile reaches; None if it reads next to nothing."""
    if not part["nbytes"] or not part["seconds"]:
        return None
    return float(part["nbytes"] / part["seconds"] / (gb_per_second * 1e9))


def stored_weights(stored: "StoredWeights") -> str:
    """How a GGUF file stores the linears of its blocks: Q4_K and Q6_K, 4.9 bits a weight."""
    return f"{' and '.join(stored.types)}, {stored.bits:.1f} bits a weight"


def texts(records: Mapping[str, TextRecord]) -> str:
    """One line about the texts that a run was calibrated on."""
    return "; end to end on ".join(text(record) for record in records.values()) or "a text that was not recorded"


def text(record: TextRecord) -> str:
    """One line that identifies a text: windows, source, split, seed and hash."""
    name, at, commit = record.source.partition("@")
    documents = f"{record.documents:,} document{'s' * (record.documents != 1)}"
    part = "whole file" if record.split == "whole" else f"{record.split} split"
    windows, seed = ("consecutive windows", "") if record.protocol == "paper" else ("windows", f" seed {record.seed},")
    return (
        f"{len(record.windows):,} {windows} of {record.seq_len} tokens of {name}{at}{commit[:12]} "
        f"({part}, {documents}),{seed} sha256 {record.sha256[:12]}{_beginning(record)}"
    )


def _beginning(record: TextRecord) -> str:
    """The tokens in front of every window, as a clause; empty if the tokenizer adds none."""
    if record.prefix is None:
        return ", made without BOS"
    ids = ", ".join(map(str, record.prefix))
    which = "the first" if record.protocol == "paper" else "each"
    return f", {which} after BOS (token {ids})" if ids else ""
