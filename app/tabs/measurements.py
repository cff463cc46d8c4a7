"""Throughput: what to measure, read from the form; what was measured as tables and as one sentence, newest first."""

import re

import pandas as pd

from app.tabs import words
from app.tabs.table import Cell, Heading, table

CASE = ["precision", "n", "k", "m", "threads"]
PEERS = {"torch-fp32": "torch fp32", "torch-bf16": "torch bf16", "torch-int8": "torch int8"}
TIMES = "\N{MULTIPLICATION SIGN}"


def latest_kernels(measured: pd.DataFrame) -> pd.DataFrame:
    """The packed engine's newest row of each case."""
    if measured.empty or "engine" not in measured:
        return pd.DataFrame(columns=[*CASE, "engine"])
    rows = measured[measured["kind"].eq("kernel") & measured["engine"].eq("abq")]
    rows = rows.drop_duplicates(CASE).astype({"n": int, "k": int, "m": int, "threads": int})
    return rows.sort_values(["n", "k", "m"], kind="stable").reset_index(drop=True)


def latest_decodes(measured: pd.DataFrame, model: str) -> pd.DataFrame:
    """The newest end-to-end row of each column of this model."""
    if measured.empty or "column" not in measured:
        return pd.DataFrame(columns=["column"])
    rows = measured[measured["kind"].eq("decode") & measured["model"].eq(model)]
    return rows.drop_duplicates("column").sort_values("tokens_per_second", ascending=False).reset_index(drop=True)


def kernel_table(kernels: pd.DataFrame) -> str:
    """Times with path and correctness mark."""
    if kernels.empty:
        return ""
    headings = [
        Heading("precision"), Heading(f"N {TIMES} K"), Heading("M", numeric=True), Heading("path"),
        Heading("time (IQR)", numeric=True),
        *(Heading(f"over {word}", numeric=True) for word in PEERS.values()),
        Heading("equals int64"), Heading("packed", numeric=True), Heading("threads", numeric=True),
    ]  # fmt: skip
    rows = []
    for row in kernels.to_dict("records"):
        speeds = [words.number((row["speedup"] or {}).get(peer)) for peer in PEERS]
        rows.append(
            (
                "",
                [
                    Cell(str(row["precision"])),
                    Cell(f"{row['n']} {TIMES} {row['k']}", row["n"] * row["k"]),
                    Cell(str(row["m"]), row["m"]),
                    Cell(str(row["path"])),
                    Cell(
                        f"{words.seconds(row['median_us'] / 1e6)} ({words.seconds(row['iqr_us'] / 1e6)})",
                        row["median_us"],
                    ),
                    *(
                        Cell(words.NOTHING if s is None else f"{s:.2f}{TIMES}", s if s is not None else "")
                        for s in speeds
                    ),
                    Cell(
                        "\N{CHECK MARK} exact" if row["exact"] else "\N{BALLOT X} differs",
                        int(bool(row["exact"])),
                    ),
                    Cell(words.mib(row["packed_bytes"]), row["packed_bytes"]),
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
                Cell(words.seconds(row["first_token_seconds"]), row["first_token_seconds"]),
                Cell(words.mib(row["weight_bytes"]), row["weight_bytes"]),
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
    speed = pd.DataFrame([speedup or {} for speedup in kernels["speedup"]], index=kernels.index)
    against_bf16 = speed["torch-bf16"] if "torch-bf16" in speed else speed.iloc[:, 0]
    peer = PEERS.get(str(against_bf16.name), str(against_bf16.name))
    best = kernels.loc[against_bf16.idxmax()]
    text = (
        f"<b>{words.escape(str(best['precision']))}</b> at {best['n']}{TIMES}{best['k']}, M={best['m']} runs "
        f"<b>{against_bf16.max():.1f} times</b> as fast as {peer} on path {words.escape(str(best['path']))}."
    )
    slow = kernels[speed.min(axis=1) < 1]
    if len(slow):
        worst = slow.loc[speed.min(axis=1)[slow.index].idxmin()]
        rival = PEERS[speed.loc[worst.name].idxmin()]
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
