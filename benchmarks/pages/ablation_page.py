"""A page such as docs/ablation.md: the results of `ablation.py`, one table per method."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from conditions import Conditions

from abq_core.evaluation.perplexity import perplexity_gap
from abq_core.precision import FULL
from abq_core.spec import METHODS

Key = tuple[str, str, str]  # method, precision, change
Found = Mapping[str, Any]


def page(found: Mapping[str, Mapping[Key, Found]], conditions: Conditions, command: str) -> str:
    """Format the whole page; found: results by model."""
    full = next(row for rows in found.values() for (method, _, _), row in rows.items() if not method)
    methods = {method for rows in found.values() for method, _, _ in rows if method}
    together = (
        f", {conditions.end_to_end_segments:,} more segments in the end-to-end pass"
        if any(METHODS[method].end_to_end for method in methods)
        else ""
    )
    epochs = "1 epoch" if conditions.epochs == 1 else f"{conditions.epochs} epochs"
    parts = [
        "# Ablation",
        "The effect of each component of a method: one switch is changed at a time. Each cell is the increase in "
        "perplexity (negative: decrease) and the standard error of the paired difference on the same held-out "
        "segments. Bold: more than two standard errors. [method.md](method.md) explains the switches; "
        "[results.md](results.md) has the results of the methods.",
        f"Calibration text `{conditions.data}`, seed {conditions.seed}; {conditions.segments} segments of "
        f"{conditions.seq_len} tokens, {epochs}{together}; {full['tokens']:,} held-out tokens.",
    ]
    for model, rows in found.items():
        parts += [_section(model, method, rows) for method in dict.fromkeys(method for method, _, _ in rows if method)]
    parts.append(
        f"Reproduce with `{command}`. Versions: Python {full['python']}, torch {full['torch']}, transformers "
        f"{full['transformers']}. Raw results: `benchmarks/results/quality.json`."
    )
    return "\n\n".join(parts) + "\n"


def _section(model: str, method: str, found: Mapping[Key, Found]) -> str:
    """The table of one method on one model: a row per change, a column per precision."""
    name, full = model.rstrip("/").rpartition("/")[2], found["", str(FULL), ""]
    precisions = list(dict.fromkeys(precision for name, precision, _ in found if name == method))
    listed = list(dict.fromkeys(change for name, _, change in found if name == method and change))
    switches = ", ".join(f"{name}={str(value).lower()}" for name, value in asdict(METHODS[method]).items())
    itself = [_itself(found[method, precision, ""]) for precision in precisions]
    lines = [["change", *precisions], ["---"] * (len(precisions) + 1), [f"`{method}` itself", *itself]]
    for change in listed:
        gaps = [_gap(found[method, p, ""], found.get((method, p, change))) for p in precisions]
        lines.append([f"`{change}`", *gaps])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"## `{method}` on `{name}`\n\nFull precision {full['perplexity']:.2f}. Switches of `{method}`: {switches}."
        f"\n\n{table}"
    )


def _itself(found: Found) -> str:
    if "error" in found:
        return "no perplexity"
    return f"{found['perplexity']:.2f} ± {found['perplexity_stderr']:.2f}"


def _gap(itself: Found, changed: Found | None) -> str:
    """The rise in perplexity with the change.

    A dash if the change does not apply at this precision.
    """
    if changed is None:
        return "-"
    if "error" in itself or "error" in changed:
        return "no perplexity"
    gap, stderr = perplexity_gap(itself["segment_losses"], changed["segment_losses"])
    text = f"{gap:+.2f} ± {stderr:.2f}"
    return f"**{text}**" if abs(gap) > 2 * stderr else text
