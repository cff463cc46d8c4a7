"""The tables of `real_model.py`, from its rows."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from abq_core.evaluation.perplexity import perplexity_gap
from abq_core.imports.spec import METHOD as IMPORTED
from abq_core.methods import METHODS
from abq_core.precision import FULL_BITS, Precision

Row = Mapping[str, Any]

BEST = "abq+"
_ALWAYS = {"model", "precision", "method", "calibrated", "evaluated"}  # of a row's key; the others are settings


def tables(rows: Sequence[Row]) -> str:
    """Format quality, KL by confidence and speed as Markdown tables; a part without rows is left out.

    Rows of other models or texts have tables of their own.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if "windows" in row["found"]:
            groups.setdefault(tuple(row["asked"][name] for name in ("model", "calibrated", "evaluated")), []).append(
                row
            )
    parts = list[str]()
    for (model, *_), found in groups.items():
        evaluated = sorted(found, key=_place)
        parts += [f"### {model}"] if len(groups) > 1 else []
        parts += [_quality(evaluated), *_gaps(evaluated), _buckets(evaluated)]
    parts += [_speed(row["found"]) for row in rows if "rounds" in row["found"]]
    return "\n\n".join(filter(None, parts)) + "\n"


def _place(row: Row) -> tuple[float, ...]:
    """The place of a row: more bits first, the methods of a precision one below the other, imported files last."""
    asked = row["asked"]
    if asked["method"] == IMPORTED:
        return 0, -row["found"]["windows"]["bits_per_parameter"]
    precision = Precision.parse(asked["precision"])
    order = ["none", *METHODS]
    method = order.index(asked["method"]) if asked["method"] in order else len(order)
    return -precision.weight_bits, -precision.act_bits, -(precision.head_bits or FULL_BITS), method


def _quality(rows: Sequence[Row]) -> str:
    first = rows[0]["found"]["windows"]
    by_paper = [row["found"]["paper"] for row in rows if "paper" in row["found"]]
    protocols = ["perplexity, windows", *["perplexity, paper"] * bool(by_paper)]
    head = ["precision", "method", "bits/parameter", "MiB", *protocols, "KL", "same top", "minutes"]
    lines = []
    for row in rows:
        windows, paper = row["found"]["windows"], row["found"].get("paper")
        full = row["asked"]["method"] == "none"
        lines.append(
            [
                *_name(row),
                f"{windows['bits_per_parameter']:.2f}",
                f"{windows['model_bytes'] / 2**20:.1f}",
                f"{windows['perplexity']:,.2f}",
                *[f"{paper['perplexity']:,.2f}" if paper else ""] * bool(by_paper),
                "" if full else f"{windows['kl_mean']:.4f}",
                "" if full else f"{windows['same_top']:.1%}",
                f"{row['found']['seconds'] / 60:.1f}" if "seconds" in row["found"] else "",
            ]
        )
    texts = (
        f"Calibrated on `{rows[0]['asked']['calibrated']}`, evaluated on `{rows[0]['asked']['evaluated']}`: "
        f"{first['tokens']:,} tokens by `windows`{_and_by(by_paper)}. "
        f"KL by `windows`, in nats per token; its floor (bfloat16) is {first['kl_floor']:.4f}."
    )
    return f"{_table(head, lines)}\n\n{texts}"


def _and_by(paper: Sequence[Row]) -> str:
    return f", {paper[0]['tokens']:,} by `paper`" if paper else ""


def _gaps(rows: Sequence[Row]) -> list[str]:
    """How much lower the perplexity of `abq+` is than that of the others, where the losses of segments are stored.

    Of several rows of `abq+` with its own switches, the best counts.
    """
    kept = [row for row in rows if "segment_losses" in row["found"]["windows"]]
    kept.sort(key=lambda row: row["found"]["windows"]["perplexity"], reverse=True)
    own = [row for row in kept if row["asked"]["method"] == BEST and "switch" not in row["asked"]]
    best = {row["asked"]["precision"]: row for row in own}  # the last is the best
    others = [row for row in kept if row["asked"]["precision"] in best and row["asked"]["method"] != BEST]
    if not others:
        return []
    lines = []
    for row in sorted(others, key=_place):
        ours, theirs = (one["found"]["windows"]["segment_losses"] for one in (best[row["asked"]["precision"]], row))
        gap, stderr = perplexity_gap(ours, theirs)
        text = f"{gap:,.2f} ± {stderr:,.2f}"
        lines.append([*_name(row), f"**{text}**" if abs(gap) > 2 * stderr else text])
    said = (
        f"How much lower the perplexity of `{BEST}` is at the same precision, by `windows`, with the standard error of "
        "the paired difference; bold: more than two standard errors:"
    )
    return [f"{said}\n\n{_table(['precision', 'method', f'`{BEST}` is lower by'], lines)}"]


def _buckets(rows: Sequence[Row]) -> str:
    quantized = [row for row in rows if row["asked"]["method"] != "none"]
    if not quantized:
        return ""
    first = quantized[0]["found"]["windows"]["kl_buckets"]
    head = ["precision", "method", *(f"{one['low']:.0%} to {one['high']:.0%}" for one in first)]
    share = ["share of the tokens", "", *(f"{one['share']:.0%}" for one in first)]
    lines = [[*_name(row), *map(_bucket, row["found"]["windows"]["kl_buckets"])] for row in quantized]
    return f"KL by the highest probability that full precision gives to a token:\n\n{_table(head, [share, *lines])}"


def _bucket(one: Row) -> str:
    return "" if one["kl_mean"] is None else f"{one['kl_mean']:.4f}"  # None: no token has this confidence


def _speed(found: Row) -> str:
    rounds: Sequence[Sequence[Row]] = found["rounds"]
    head = ["", "path", "tokens/s", "first token, ms", "weights in memory, MiB"]
    lines = []
    for measured in zip(*rounds, strict=True):
        rate, first = (median(one[key] for one in measured) for key in ("tokens_per_second", "first_token_seconds"))
        weights = measured[0]["weight_bytes"] / 2**20
        lines.append(
            [measured[0]["column"], measured[0]["path"], f"{rate:.1f}", f"{first * 1e3:.0f}", f"{weights:.1f}"]
        )
    one = rounds[0][0]
    return (
        f"Decoding {one['tokens']} tokens on {one['threads']} threads of {found['machine']}, in turn, median of "
        f"{len(rounds)} rounds, {found['date']}. Weights are rounded to nearest:\n\n"
        f"{_table(head, lines)}"
    )


def _name(row: Row) -> tuple[str, str]:
    asked = row["asked"]
    settings = ", ".join(f"{name}={value}" for name, value in asked.items() if name not in _ALWAYS)
    method = "" if asked["method"] == "none" else " ".join(filter(None, (f"`{asked['method']}`", settings)))
    precision = row["found"]["windows"]["precision"] if asked["method"] == IMPORTED else asked["precision"]
    return precision.replace("*", "\\*"), method


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))
