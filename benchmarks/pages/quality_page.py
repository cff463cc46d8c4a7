"""The page docs/results.md: tables of the results of `quality.py`, one section per model."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from conditions import Conditions
from row_spec import FULL_PRECISION, RowSpec

from abq_core.evaluation.perplexity import perplexity_gap
from abq_core.models.shape import model_shape
from abq_core.precision import Precision
from abq_core.spec import METHODS

Found = Mapping[str, Any]
_RIVALS = ("W2*A8", "W3A8")  # both store three planes per weight


def page(known: Mapping[RowSpec, Found], conditions: Conditions, command: str) -> str:
    """Format the measured part of a page."""
    models = list(dict.fromkeys(spec.model for spec in known))
    parts = [_introduction(conditions, {spec.method for spec in known})]
    parts += [ModelSection(model, {q: f for q, f in known.items() if q.model == model}).text() for model in models]
    parts.append(_end(known, command))
    return "\n".join(parts) + "\n"


class ModelSection:
    """The section of one model."""

    def __init__(self, model: str, known: Mapping[RowSpec, Found]) -> None:
        self.model, self.known = model, known
        self.cells = {(spec.precision, spec.method): found for spec, found in known.items()}
        self.full = next(found for spec, found in known.items() if spec.method == FULL_PRECISION)
        rest = [spec for spec in known if spec.method != FULL_PRECISION]
        self.precisions = list(dict.fromkeys(spec.precision for spec in rest))
        self.methods = list(dict.fromkeys(spec.method for spec in rest))
        ours = [method for method in METHODS if method in self.methods]
        self.best = ours[-1] if ours else None  # the last of METHODS is compared with the others

    def text(self) -> str:
        """Format the section."""
        shape = model_shape(self.model)
        name = next(iter(self.known)).model_name
        parts = [
            f"## `{name}`\n\n{shape.family}, {shape.parameters / 1e6:.1f} M parameters, {shape.blocks} blocks, "
            f"hidden {shape.hidden}. Full precision: **{self.full['perplexity']:.2f}** ± "
            f"{self.full['perplexity_stderr']:.2f} on {self.full['tokens']:,} held-out tokens.",
            self._perplexities(),
        ]
        if self.best is not None:
            parts += [self._over_full(), self._gaps() if len(self.methods) > 1 else "", self._rivals()]
        parts += [self._distances(), self._costs()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _found(self, precision: str, method: str) -> Found | None:
        """The results of a row, or None without a perplexity."""
        found = self.cells.get((precision, method))
        return found if found is not None and "perplexity" in found else None

    def _table(self, first: Sequence[str], rows: Sequence[Sequence[str]], methods: Sequence[str]) -> str:
        titles = [*first, *(f"`{method}`" for method in methods)]
        lines = [titles, ["---"] * len(titles), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _perplexities(self) -> str:
        rows = []
        for precision in self.precisions:
            found = {method: self._found(precision, method) for method in self.methods}
            lowest = min((f["perplexity"] for f in found.values() if f is not None), default=None)
            size = next((f["weight_bytes"] for f in found.values() if f is not None), None)
            shrunk = "-" if size is None else f"{self.full['weight_bytes'] / size:.2f}x"
            cells = [_perplexity(found[method], lowest) for method in self.methods]
            rows.append([precision, str(Precision.parse(precision).stored_bits), shrunk, *cells])
        return "Perplexity and its standard error (lower is better; bold: the best of the row):\n\n" + self._table(
            ["precision", "stored bits", "compression"], rows, self.methods
        )

    def _over_full(self) -> str:
        rows = []
        for precision in self.precisions:
            found = [self._found(precision, method) for method in self.methods]
            cells = ["-" if f is None else f"{f['perplexity'] / self.full['perplexity']:.3f}x" for f in found]
            rows.append([precision, *cells])
        return "Perplexity relative to full precision:\n\n" + self._table(["precision"], rows, self.methods)

    def _gaps(self) -> str:
        assert self.best is not None
        others = [method for method in self.methods if method != self.best]
        rows = [
            [precision, *(self._gap((precision, self.best), (precision, other)) for other in others)]
            for precision in self.precisions
        ]
        return (
            f"How much lower the perplexity of `{self.best}` is, with the standard error of the paired difference on "
            "the same segments; bold: more than two standard errors:\n\n" + self._table(["precision"], rows, others)
        )

    def _gap(self, better: tuple[str, str], worse: tuple[str, str]) -> str:
        low, high = self._found(*better), self._found(*worse)
        if low is None or high is None:
            return "-"
        gap, stderr = perplexity_gap(low["segment_losses"], high["segment_losses"])
        text = f"{gap:.2f} ± {stderr:.2f}"
        return f"**{text}**" if abs(gap) > 2 * stderr else text

    def _rivals(self) -> str:
        """Five levels against eight, at equal stored bits."""
        assert self.best is not None
        starred, plain = _RIVALS
        low = self._found(starred, self.best)
        shown = [method for method in self.methods if self._found(plain, method) is not None]
        if low is None or not shown:
            return ""
        gaps = ", ".join(f"`{m}` by {self._gap((starred, self.best), (plain, m))}" for m in shown)
        return (
            f"{starred} and {plain} both store three bits per weight, so they are compared directly: `{self.best}` at "
            f"{starred} reaches {low['perplexity']:.2f}. That is lower than {plain} with {gaps} (negative: higher)."
        )

    def _distances(self) -> str:
        rows = []
        for precision in self.precisions:
            found = [self._found(precision, method) for method in self.methods]
            cells = ["-" if f is None else f"{f['kl_mean']:.3f}, {100 * f['same_top']:.1f} %" for f in found]
            rows.append([precision, *cells])
        return (
            "Mean KL divergence to full precision (nats per token), and how often the most likely token is the "
            "same:\n\n" + self._table(["precision"], rows, self.methods)
        )

    def _costs(self) -> str:
        rows = []
        for precision in self.precisions:
            found = [self._found(precision, method) for method in self.methods]
            cells = ["-" if f is None else f"{f['cpu_seconds']:.0f} s, {f['peak_mib'] or 0:,} MiB" for f in found]
            rows.append([precision, *cells])
        return (
            "CPU seconds of the calibration (for peers, including start-up), and peak memory of the process:\n\n"
            + self._table(["precision"], rows, self.methods)
        )


def _perplexity(found: Found | None, lowest: float | None) -> str:
    if found is None:
        return "-"
    shown = f"{found['perplexity']:.2f}"
    return f"{f'**{shown}**' if found['perplexity'] == lowest else shown} ± {found['perplexity_stderr']:.2f}"


def _introduction(conditions: Conditions, methods: Collection[str]) -> str:
    names = [name for name in METHODS if name in methods]
    peers = {method.partition("@")[0] for method in methods} - {*METHODS, FULL_PRECISION}
    lines = [
        f"- Calibration: {conditions.segments} segments of {conditions.seq_len} tokens of `{conditions.data}`, seed "
        f"{conditions.seed}; {conditions.epochs} epoch{'s' * (conditions.epochs > 1)} for our methods that learn.",
    ]
    if peers:
        lines += [
            "- `gptq` (GPTQModel) orders columns by activation, chooses the range by least squares, and quantizes "
            "weights only.",
            f"- `autoround` (AutoRound) uses {conditions.steps} steps of 8 segments, float32, and otherwise its "
            "defaults; it quantizes activations to the row's bits while it learns.",
            "- Both leave weights on 2^p evenly spaced levels per row, which is checked. Neither supports starred "
            "precisions.",
        ]
    lines += [
        f"- `{name}` applies a Hadamard transform to weights and activations, also at run time, and uses half-step "
        f"zero points, which need one more bit per row.{' The peers do neither.' if peers else ''}"
        for name in names
        if METHODS[name].hadamard
    ]
    lines += [
        f"- `{name}` reads {conditions.end_to_end_segments:,} more segments in its end-to-end pass."
        + (
            " The peers have no such pass and get no additional text, except the columns with `@` and a number of "
            "segments ([results-same-text.md](results-same-text.md))."
            if peers
            else ""
        )
        for name in names
        if METHODS[name].end_to_end
    ]
    return (
        f"This page compares {'our methods and their peers' if peers else 'our methods'} on the same models, "
        "calibration segments and held-out text. The same code evaluates all of them on the simulated engine, with "
        "weights quantized per output channel, activations per token at run time, and embedding, norms and LM head in "
        "full precision. The effect of each component of our methods is in [ablation.md](ablation.md) and "
        "[ablation-plus.md](ablation-plus.md).\n\n" + "\n".join(lines) + "\n"
    )


def _end(known: Mapping[RowSpec, Found], command: str) -> str:
    found = [f for f in known.values() if "perplexity" in f]
    packages = sorted({f["package"] for f in found if "package" in f})
    versions = sorted({f"Python {f['python']}, torch {f['torch']}, transformers {f['transformers']}" for f in found})
    broken = sorted(
        {f"{q.model_name} {q.precision} {q.method}: {f['error']}" for q, f in known.items() if "error" in f}
    )
    lines = ["## How it was measured", ""]
    lines += [f"- No perplexity: {text}" for text in broken]
    lines += [
        "- The standard error of a single perplexity mostly reflects how segments differ in difficulty. All methods "
        "read the same segments, so paired differences are much more precise.",
        "- CPU seconds are those of the machine that measured the row. Rows come from several machines; the slowest "
        "took twice as long.",
        "- Compression is FP16 size divided by the size of bit planes, scales and zero points, for the linears only. A "
        "star stores one more plane.",
        f"- Reproduce with `{command}`. Versions: {'; '.join(versions)}; peers: {', '.join(packages) or 'none'}. Raw "
        "results with the loss of each segment: `benchmarks/results/quality.json`.",
    ]
    return "\n".join(lines)
