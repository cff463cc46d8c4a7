"""Throughput: what to measure, read from the form; what was measured as tables and as one sentence, newest first."""

import re

import pandas as pd

from app import formatting
from app.figures.throughput import BASELINES, baselines_of
from app.web.tabs import words
from app.web.tabs.table import Cell, Heading, table

READABLE = 12  # cases in one picture
CASE = ["precision", "n", "k", "m", "threads"]
HEADLINE = ("torch-bf16", "cublas-fp16")  # what the answer compares with, where it was timed
TIMES = "\N{MULTIPLICATION SIGN}"


def latest_kernels(measured: pd.DataFrame) -> pd.DataFrame:
    """The packed engine's newest row of each case."""
    if measured.empty or "engine" not in measured:
        return pd.DataFrame(columns=[*CASE, "engine"])
    rows = measured[measured["kind"].eq("kernel") & measured["engine"].eq("abq")]
    rows = rows.drop_duplicates(CASE).astype({"n": int, "k": int, "m": int, "threads": int})
    return rows.sort_values(["n", "k", "m"], kind="stable").reset_index(drop=True)


def chosen_kernels(kernels: pd.DataFrame, precisions: list[str], shapes: list[str], m: list[str]) -> pd.DataFrame:
    """The cases that the form names, where there are more than one picture can show; if it names none, the first."""
    if len(kernels) <= READABLE:
        return kernels
    shape = kernels["n"].astype(str) + "x" + kernels["k"].astype(str)
    named = kernels["precision"].isin(precisions) & shape.isin(shapes) & kernels["m"].astype(str).isin(m)
    return (kernels[named] if named.any() else kernels.head(READABLE)).reset_index(drop=True)


def latest_decodes(measured: pd.DataFrame, model: str, any_model: bool = False) -> pd.DataFrame:
    """The newest end-to-end row of each column of this model; any_model: of the newest one, where it has none."""
    if measured.empty or "column" not in measured:
        return pd.DataFrame(columns=["column"])
    decodes = measured[measured["kind"].eq("decode")]
    if any_model and len(decodes) and model not in set(decodes["model"]):
        model = str(decodes["model"].iloc[0])
    rows = decodes[decodes["model"].eq(model)]
    return rows.drop_duplicates("column").sort_values("tokens_per_second", ascending=False).reset_index(drop=True)


def kernel_table(kernels: pd.DataFrame) -> str:
    """Times with path and correctness mark."""
    if kernels.empty:
        return ""
    baselines = baselines_of(kernels)
    headings = [
        Heading("precision"), Heading(f"N {TIMES} K"), Heading("M", numeric=True), Heading("path"),
        Heading("time (IQR)", numeric=True), Heading("equals int64"),
        *(Heading(f"over {BASELINES[engine].word}", numeric=True) for engine in baselines),
        Heading("packed", numeric=True), Heading("threads", numeric=True),
    ]  # fmt: skip
    rows = []
    for row in kernels.to_dict("records"):
        speeds = [formatting.number((row["speedup"] or {}).get(engine)) for engine in baselines]
        rows.append(
            (
                "",
                [
                    Cell(str(row["precision"])),
                    Cell(f"{row['n']} {TIMES} {row['k']}", row["n"] * row["k"]),
                    Cell(str(row["m"]), row["m"]),
                    Cell(str(row["path"])),
                    Cell(
                        f"{formatting.seconds(row['median_us'] / 1e6)} ({formatting.seconds(row['iqr_us'] / 1e6)})",
                        row["median_us"],
                    ),
                    Cell(
                        "\N{CHECK MARK} exact" if row["exact"] else "\N{BALLOT X} differs",
                        int(bool(row["exact"])),
                    ),
                    *(
                        Cell(formatting.MISSING if s is None else f"{s:.2f}{TIMES}", s if s is not None else "")
                        for s in speeds
                    ),
                    Cell(formatting.size(row["packed_bytes"]), row["packed_bytes"]),
                    Cell(str(row["threads"]), row["threads"]),
                ],
            )
        )
    return table(headings, rows, "Kernel timings", selectable=False)


def decode_table(decodes: pd.DataFrame) -> str:
    """End-to-end decoding, fastest first."""
    if decodes.empty:
        return ""
    headings = [
        Heading("column"), Heading("path"), Heading("tokens/s", numeric=True),
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
                Cell(formatting.seconds(row["first_token_seconds"]), row["first_token_seconds"]),
                Cell(formatting.size(row["weight_bytes"]), row["weight_bytes"]),
                Cell(f"{int(row['threads'])}", row["threads"]),
            ],
        )
        for row in decodes.to_dict("records")
    ]
    return table(headings, rows, "End-to-end decoding", selectable=False)


def kernel_answer(kernels: pd.DataFrame) -> str:
    """The best case, and where the quantized engine is slower, why."""
    if kernels.empty:
        return "No kernel was timed yet: press Time the kernels."
    baselines = baselines_of(kernels)
    if not baselines:
        return "The packed engine was timed, but no other engine beside it."
    speed = pd.DataFrame([speedup or {} for speedup in kernels["speedup"]], kernels.index, baselines)
    engine = next((engine for engine in HEADLINE if engine in baselines), baselines[0])
    best = kernels.loc[speed[engine].idxmax()]
    text = (
        f"<b>{words.escape(str(best['precision']))}</b> at {best['n']}{TIMES}{best['k']}, M={best['m']} runs "
        f"<b>{speed[engine].max():.1f} times</b> as fast as {BASELINES[engine].word} on path "
        f"{words.escape(str(best['path']))}."
    )
    slow = kernels[speed.min(axis=1) < 1]
    if len(slow):
        worst = slow.loc[speed.min(axis=1)[slow.index].idxmin()]
        rival = BASELINES[speed.loc[worst.name].idxmin()].word
        text += f" {words.escape(str(worst['precision']))} at M={worst['m']} is slower than {rival}: {_reason(worst)}"
    return text


def _reason(row: pd.Series) -> str:
    """Why a quantized product loses, from the case alone."""
    if row["path"] == "numpy":
        return "this CPU lacks the instructions of the fast paths, so NumPy ran."
    if row["m"] >= 8:
        return "with many tokens the product is bound by arithmetic, which fewer weight bits do not shorten."
    if row["n"] * row["k"] < 2**21:
        return (
            "the matrix is small enough for the cache, so quantizing the activations weighs more than reading weights."
        )
    return "its bit planes cost more integer work than the bytes they save; fewer planes would win."


def read_shapes(texts: list[str]) -> list[tuple[int, int]]:
    """NxK as numbers. Raises ValueError."""
    parsed = []
    for text in texts or []:
        match = re.fullmatch(r"\s*(\d{1,6})\s*[xX*,]\s*(\d{1,6})\s*", str(text))
        if match is None:
            raise ValueError(f"'{str(text)[:40]}' is not a shape: write rows x columns, such as 4096x4096.")
        parsed.append((int(match[1]), int(match[2])))
    return parsed


def read_tokens(texts: list[str]) -> list[int]:
    """M as numbers. Raises ValueError."""
    for text in texts or []:
        if not re.fullmatch(r"\d{1,5}", str(text).strip()):
            raise ValueError(f"'{str(text)[:40]}' is not a number of tokens: write a whole number, such as 1 or 8.")
    return [int(text) for text in texts or []]
