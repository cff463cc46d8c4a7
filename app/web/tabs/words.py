"""Numbers and terms in words: one place decides how a size, a time or a perplexity reads. All of it is safe in HTML."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

TERMS = {
    "stored bits": "Bit planes of a weight in memory; with bit balance one more than the name says.",
    "information bits": "log2 of the number of levels: what an ideal code would need; W2* has 2.32.",
    "bit balance": "One more level, symmetric around zero: 5 instead of 4 at 2 bits.",
    "SNR": "Signal-to-noise ratio: power of the values over power of the rounding error, in decibel. 6 dB is one bit.",
    "DLC": "Double log cosine: the block's output should point where the full-precision block's points.",
    "AKL": "KL divergence of attention maps, in both directions, so that attention keeps its shape.",
    "MSE": "Squared error of the block's output; it is in the authors' code, not in the paper's text.",
    "KL": "Kullback-Leibler divergence of the next-token distributions from full precision, in nats. 0: the same.",
    "perplexity": "exp of the mean loss per token on held-out text: lower is better; the standard error follows it.",
    "tasks": "Mean accuracy over zero-shot tasks, with its standard error and their number; abq eval RUN --tasks asks.",
    "same top token": "How often the most likely next token is the one that full precision would choose.",
    "clipping": "Learned factors that narrow each row's range before rounding.",
    "balance vectors": "Learned factors that move range from activations to weights, channel by channel.",
    "compensation": "A learned rank-1 term on down_proj of the first and last blocks; no cost later.",
    "Hadamard transform": "Channels of weights and activations are mixed before rounding, so that none stands out.",
    "half-step zero points": "Four levels may lie on both sides of zero alike: -1.5, -0.5, 0.5, 1.5 steps.",
    "rounded": "Rounded to the nearest level; nothing was learned.",
    "corrected": "Calibrated: balance vectors and clipping were learned block by block before rounding.",
}
SECTIONS = {
    "bit balance": "Bit Balance Strategy",
    "DLC": "Distribution Correction",
    "AKL": "Distribution Correction",
    "balance vectors": "Distribution Correction",
    "compensation": "Distribution Correction",
}
PAPER = "arXiv 2408.08554"
NOTHING = "\N{EN DASH}"


def term(name: str, text: str | None = None) -> str:
    """A term with its one-sentence explanation as tooltip."""
    tip = TERMS[name] + (f" See {SECTIONS[name]} in {PAPER}." if name in SECTIONS else "")
    return f'<abbr title="{escape(tip)}" tabindex="0">{escape(text or name)}</abbr>'


def number(value: object) -> float | None:
    """A finite float, or None."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def perplexity(value: object, stderr: object = None) -> str:
    """Two decimals with the standard error."""
    mean, error = number(value), number(stderr)
    if mean is None:
        return NOTHING
    shown = f"{mean:,.2f}" if mean < 1e5 else f"{mean:.2e}"
    return shown + (f" \N{PLUS-MINUS SIGN} {error:.2f}" if error else "")


def mib(size: object) -> str:
    """Bytes as MiB, without decimals where they would say nothing, or GiB where they are many."""
    value = number(size)
    if value is None:
        return NOTHING
    if value >= 2**30:
        return f"{value / 2**30:.2f} GiB"
    return f"{value / 2**20:.{0 if value >= 100 * 2**20 else 2}f} MiB"


def bits(value: object) -> str:
    """Two decimals, or a whole number where it is one."""
    shown = number(value)
    return NOTHING if shown is None else f"{shown:.0f}" if shown == int(shown) else f"{shown:.2f}"


def seconds(value: object) -> str:
    """A time with unit and three figures; minutes and hours from there."""
    shown = number(value)
    if shown is None:
        return NOTHING
    if shown < 1e-3:
        return f"{shown * 1e6:.3g} \N{GREEK SMALL LETTER MU}s"
    if shown < 1:
        return f"{shown * 1e3:.3g} ms"
    if shown < 60:
        return f"{shown:.3g} s"
    if shown < 3600:
        return f"{int(shown // 60)} min {int(shown % 60)} s"
    return f"{int(shown // 3600)} h {int(shown % 3600 // 60)} min"


def percent(share: object) -> str:
    """A share of 1 as percent with one decimal."""
    shown = number(share)
    return NOTHING if shown is None else f"{100 * shown:.1f} %"


def task_average(run: Mapping[str, Any]) -> str:
    """The mean accuracy of a run's tasks with its standard error, and of how many."""
    if number(run["task_score"]) is None:
        return NOTHING
    return f"{score('acc', run['task_score'], run['task_stderr'])} ({int(run['tasks'])})"


def score(metric: str, value: object, stderr: object) -> str:
    """A metric of a task with its standard error: shares as percent, others as they are."""
    mean, error = number(value), number(stderr)
    if mean is None:
        return NOTHING
    if not metric.startswith(("acc", "exact_match")):
        return f"{metric} {mean:.4g}" + (f" \N{PLUS-MINUS SIGN} {error:.2g}" if error else "")
    return percent(mean) + (f" \N{PLUS-MINUS SIGN} {100 * error:.1f}" if error else "")


def answer(html: str) -> str:
    """The one-line answer above a picture. `html` is safe already."""
    return f'<p class="abq-answer" role="status">{html}</p>'


def problem(message: object) -> str:
    """A sentence that says what went wrong, in place of the answer."""
    return f'<p class="abq-answer abq-problem" role="alert">{escape(str(message))}</p>'


def empty(title: str, text: str) -> str:
    """What will stand here, where nothing stands yet. Both are safe HTML already."""
    return f'<div class="abq-empty"><h3>{title}</h3><p>{text}</p></div>'


def command(line: str) -> str:
    """The equal command line of a form."""
    return (
        '<div class="abq-command"><span>the same on the command line</span>'
        f'<code tabindex="0">{escape(line)}</code></div>'
    )


def facts(rows: list[tuple[str, str]]) -> str:
    """Names and values in two columns. Both are safe HTML already."""
    return '<dl class="abq-facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"
