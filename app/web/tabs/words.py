"""Terms with their explanations, and the pieces of HTML that the tabs share. All of it is safe HTML."""

from html import escape

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


def term(name: str, text: str | None = None) -> str:
    """A term with its one-sentence explanation as tooltip."""
    tip = TERMS[name] + (f" See {SECTIONS[name]} in {PAPER}." if name in SECTIONS else "")
    return f'<abbr title="{escape(tip)}" tabindex="0">{escape(text or name)}</abbr>'


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
