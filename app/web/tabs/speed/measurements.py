"""Stored timings for the Throughput tab, as tables and as one sentence.

Only the newest timing of each case is shown.
"""

import pandas as pd

from app.figures.throughput import BASELINES, baselines_of
from app.formatting import MISSING, number, seconds, size
from app.web import html
from app.web.page.table import Cell, Heading, table

READABLE = 12  # cases that one figure can show
CASE = ["precision", "n", "k", "m", "threads"]
HEADLINE = ("torch-bf16", "cublas-fp16")  # the preferred baselines of the answer
CACHED_WEIGHTS = 2**21  # a matrix with fewer weights fits in the cache
MANY_TOKENS = 8
TIMES = "\N{MULTIPLICATION SIGN}"


def latest_kernels(measured: pd.DataFrame) -> pd.DataFrame:
    """The packed engine's newest row of each case."""
    if measured.empty or "engine" not in measured:
        return pd.DataFrame(columns=[*CASE, "engine"])
    rows = measured[measured["kind"].eq("kernel") & measured["engine"].eq("abq")]
    rows = rows.drop_duplicates(CASE).astype({"n": int, "k": int, "m": int, "threads": int})
    return rows.sort_values(["n", "k", "m"], kind="stable").reset_index(drop=True)


def chosen_kernels(kernels: pd.DataFrame, precisions: list[str], shapes: list[str], m: list[str]) -> pd.DataFrame:
    """All cases if they fit in one figure, else those of the form, else the first READABLE."""
    if len(kernels) <= READABLE:
        return kernels
    shape = kernels["n"].astype(str) + "x" + kernels["k"].astype(str)
    named = kernels["precision"].isin(precisions) & shape.isin(shapes) & kernels["m"].astype(str).isin(m)
    return (kernels[named] if named.any() else kernels.head(READABLE)).reset_index(drop=True)


def latest_decodes(measured: pd.DataFrame, model: str, any_model: bool = False) -> pd.DataFrame:
    """The newest end-to-end row of each column of a model.

    any_model: of the newest model if this one has none.
    """
    if measured.empty or "column" not in measured:
        return pd.DataFrame(columns=["column"])
    decodes = measured[measured["kind"].eq("decode")]
    if any_model and len(decodes) and model not in set(decodes["model"]):
        model = str(decodes["model"].iloc[0])
    rows = decodes[decodes["model"].eq(model)]
    return rows.drop_duplicates("column").sort_values("tokens_per_second", ascending=False).reset_index(drop=True)


def kernel_table(kernels: pd.DataFrame) -> str:
    """Kernel timings with their path, correctness mark and speed-ups."""
    if kernels.empty:
        return ""
    baselines = baselines_of(kernels)
    headings = [
        Heading("precision", wraps=True), Heading(f"shape N {TIMES} K", wraps=True),
        Heading("M", numeric=True), Heading("path", wraps=True),
        Heading("time (IQR)", numeric=True, wraps=True), Heading("equals int64", wraps=True),
        *(
            Heading(f"over {BASELINES[engine].word}", numeric=True, optional=0 if engine in HEADLINE else 1)
            for engine in baselines
        ),
        Heading("packed size", numeric=True, optional=2), Heading("threads", numeric=True, optional=3),
    ]  # fmt: skip
    rows = [("", _kernel_cells(row, baselines)) for row in kernels.to_dict("records")]
    return table(headings, rows, "Kernel timings", selectable=False)


def _kernel_cells(row: dict[str, object], baselines: list[str]) -> list[Cell]:
    speedups = [number((row["speedup"] or {}).get(engine)) for engine in baselines]
    time, spread = (seconds(row[name] / 1e6) for name in ("median_us", "iqr_us"))
    return [
        Cell(str(row["precision"])),
        Cell(f"{row['n']} {TIMES} {row['k']}", row["n"] * row["k"]),
        Cell(str(row["m"]), row["m"]),
        Cell(str(row["path"])),
        Cell(f"{time} ({spread})", row["median_us"]),
        Cell("\N{CHECK MARK} exact" if row["exact"] else "\N{BALLOT X} differs", int(bool(row["exact"]))),
        *(Cell(MISSING, "") if factor is None else Cell(f"{factor:.2f}{TIMES}", factor) for factor in speedups),
        Cell(size(row["packed_bytes"]), row["packed_bytes"]),
        Cell(str(row["threads"]), row["threads"]),
    ]


def decode_table(decodes: pd.DataFrame) -> str:
    """End-to-end decoding, fastest first."""
    if decodes.empty:
        return ""
    headings = [
        Heading("column"), Heading("path", wraps=True), Heading("tokens/s", numeric=True),
        Heading("first token", numeric=True), Heading("weights in memory", numeric=True),
        Heading("threads", numeric=True),
    ]  # fmt: skip
    rows = [
        (
            "",
            [
                Cell(str(row["column"])),
                Cell(str(row["path"])),
                Cell(f"{row['tokens_per_second']:.1f}", row["tokens_per_second"]),
                Cell(seconds(row["first_token_seconds"]), row["first_token_seconds"]),
                Cell(size(row["weight_bytes"]), row["weight_bytes"]),
                Cell(f"{int(row['threads'])}", row["threads"]),
            ],
        )
        for row in decodes.to_dict("records")
    ]
    return table(headings, rows, "End-to-end decoding", selectable=False)


def kernel_answer(kernels: pd.DataFrame) -> str:
    """The best case, and the reason for the worst one if it is slower than a baseline."""
    if kernels.empty:
        return "No kernel timings yet: press Time the kernels."
    baselines = baselines_of(kernels)
    if not baselines:
        return "The packed engine was timed, but no other engine was timed with it."
    speed = pd.DataFrame([speedup or {} for speedup in kernels["speedup"]], kernels.index, baselines)
    engine = next((engine for engine in HEADLINE if engine in baselines), baselines[0])
    slowest = speed.min(axis=1).idxmin()
    slower = speed.loc[slowest].min() < 1
    return html.render(
        "kernel_answer.html",
        best=kernels.loc[speed[engine].idxmax()],
        speedup=speed[engine].max(),
        baseline=BASELINES[engine].word,
        worst=kernels.loc[slowest] if slower else None,
        rival=BASELINES[speed.loc[slowest].idxmin()].word if slower else "",
        reason=_reason(kernels.loc[slowest]) if slower else "",
    )


def _reason(row: pd.Series) -> str:
    """Why the packed engine is slower, judged by the case."""
    if row["path"] == "numpy":
        return "this CPU lacks the instructions of the fast paths, so NumPy was used."
    if row["m"] >= MANY_TOKENS:
        return "with many tokens the product is bound by arithmetic, which fewer weight bits do not reduce."
    if row["n"] * row["k"] < CACHED_WEIGHTS:
        return "the matrix fits in the cache, so quantizing the activations costs more than reading the weights."
    return "its bit planes cost more integer work than they save in memory traffic; use fewer bits."
