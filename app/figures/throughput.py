"""Speed: kernels against other engines, their roofline, and whole-model decoding."""

from html import escape
from itertools import cycle
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app import formatting
from app.figures.base import TIMES, empty_figure, pattern, sheet, style_axes
from app.figures.palette import lens_colour, palette
from storage.run_ids import means_run

_DASHES = ("dot", "dash", "dashdot", "longdash", "longdashdot")


class Baseline(NamedTuple):
    """An engine to compare with: its name, and the colour and pattern of its bars."""

    word: str
    lens: str
    pattern: str


BASELINES = {
    "torch-fp32": Baseline("torch fp32", "full", ""),
    "torch-bf16": Baseline("torch bf16", "full", "/"),
    "torch-int8": Baseline("torch int8", "rounded", "."),
    "torch-int4pack": Baseline("torch int4", "rounded", "/"),
    "onnxruntime": Baseline("ONNX Runtime", "rounded", "x"),
    "llama.cpp": Baseline("llama.cpp", "rounded", "-"),
    "cublas-fp16": Baseline("cuBLAS FP16", "full", ""),
    "cublas-bf16": Baseline("cuBLAS BF16", "full", "/"),
    "cublaslt-int8": Baseline("cuBLASLt INT8", "rounded", "."),
    "torch-int4": Baseline("torch int4 (A16)", "rounded", "/"),
    "gemlite": Baseline("GemLite", "rounded", "x"),
    "humming": Baseline("Humming", "rounded", "-"),
}  # keyed by the names of the benchmarks in kernels/; engines that only an imported file names are not shown


def baselines_of(kernels: pd.DataFrame) -> list[str]:
    """The known engines that at least one row of `kernels` was compared with."""
    timed = {engine for speedup in kernels["speedup"] if isinstance(speedup, dict) for engine in speedup}
    return [engine for engine in BASELINES if engine in timed]


def speedup_figure(kernels: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Speed-up of the packed engine over each other engine, one group of bars per case.

    1 is equal speed.
    """
    rows = _packed_engine(kernels)
    if rows.empty:
        return empty_figure("No kernel timings on this machine yet.", dark)
    figure = sheet(dark)
    cases = [f"{row.precision}<br>{row.n}{TIMES}{row.k}<br>M={row.m}" for row in rows.itertuples()]
    for engine in baselines_of(rows):
        word, lens, shape = BASELINES[engine]
        values = [speedup.get(engine, np.nan) if isinstance(speedup, dict) else np.nan for speedup in rows["speedup"]]
        figure.add_trace(
            go.Bar(
                x=cases,
                y=values,
                name=f"over {word}",
                marker={"color": lens_colour(lens, dark), "pattern": pattern(shape, dark)},
                text=[f"{value:.1f}{TIMES}" if np.isfinite(value) else "" for value in values],
                textposition="outside",
                textfont={"color": palette(dark).muted, "size": 12},
                cliponaxis=False,
                customdata=np.stack([rows["path"], rows["median_us"], rows["iqr_us"]], axis=-1),
                hovertemplate=f"%{{x}}<br><b>%{{y:.2f}} times</b> {word}'s speed<br>path %{{customdata[0]}}, "
                "%{customdata[1]:.0f} ± %{customdata[2]:.0f} µs<extra></extra>",
            )
        )
    figure.add_hline(y=1, line={"color": palette(dark).ink, "width": 1, "dash": "dot"})
    figure.update_yaxes(title_text="speed-up (times)", rangemode="tozero")
    figure.update_xaxes(title_text=f"precision, shape N{TIMES}K, tokens M", showgrid=False)
    figure.update_layout(barmode="group", uirevision="speedup", margin={"t": 56})
    return style_axes(figure, dark)


def roofline_figure(kernels: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Speed over operations per byte moved, with a cold cache.

    The slope is the measured memory bandwidth.
    A GPU has one flat roof per kind of product: the measured peak of its tensor cores, divided by the number of binary
    products per product of the layer. A CPU has one flat roof: the best measured speed.
    """
    rows = _packed_engine(kernels)
    rows = rows[_above_zero(rows, "read_gb_per_second") & _above_zero(rows, "cold_us")]
    if rows.empty:
        return empty_figure("No kernel timings with a memory bandwidth yet.", dark)
    operations = 2.0 * rows["n"] * rows["k"] * rows["m"]
    rows = rows.assign(
        work=operations, intensity=operations / rows["bytes_moved"], speed=operations / (rows["cold_us"] * 1e3)
    )
    figure = sheet(dark)
    for (name, x, y), dash in zip(_roofline(rows), cycle(_DASHES)):
        line = {"color": palette(dark).muted, "dash": dash, "width": 1.5}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip"))
    for precision, part in rows.groupby("precision", sort=False):
        figure.add_trace(_kernels_of_precision(str(precision), part, dark))
    figure.update_xaxes(title_text="operations per byte moved: weight, activations, output (log)", type="log")
    figure.update_yaxes(title_text="speed in GOP/s (log)", type="log")
    figure.update_layout(uirevision="roofline")
    return style_axes(figure, dark)


def _roofline(rows: pd.DataFrame) -> list[tuple[str, list[float], list[float]]]:
    """(name, x, y) of the bandwidth slope and of the flat roofs.

    The slope ends at the highest roof.
    """
    bandwidth = float(rows["read_gb_per_second"].max())
    roofs = _roofs(rows)
    ridges = [roof / bandwidth for roof in roofs.values()]
    low = min(float(rows["intensity"].min()), *ridges) / 2
    high = max(float(rows["intensity"].max()), *ridges) * 2
    top = max(ridges)
    slope = (f"memory: {bandwidth:,.1f} GB/s", [low, top], [low * bandwidth, top * bandwidth])
    return [slope, *((name, [roof / bandwidth, high], [roof, roof]) for name, roof in roofs.items())]


def _kernels_of_precision(precision: str, rows: pd.DataFrame, dark: bool) -> go.Scatter:
    starred = "*" in precision
    return go.Scatter(
        x=rows["intensity"],
        y=rows["speed"],
        mode="markers+text",
        text=[precision] * len(rows),
        textposition="top center",
        textfont={"size": 12, "color": palette(dark).ink},
        showlegend=False,
        marker={
            "size": 11,
            "symbol": "star" if starred else "diamond",
            "color": lens_colour("balanced" if starred else "corrected", dark),
        },
        customdata=np.stack([rows["n"], rows["k"], rows["m"], rows["path"]], axis=-1),
        hovertemplate=f"{precision}, %{{customdata[0]}}{TIMES}%{{customdata[1]}}, M=%{{customdata[2]}}<br>"
        "path %{customdata[3]}<br>%{x:.3g} operations per byte, <b>%{y:.3g} GOP/s</b><extra></extra>",
    )


def decode_figure(decode: pd.DataFrame, dark: bool = False) -> go.Figure:
    """Tokens per second of the whole model, one bar per column.

    Bars are labelled with the size of the weights.
    """
    if decode.empty:
        return empty_figure("No end-to-end timings on this machine yet.", dark)
    rows = decode.iloc[::-1]
    figure = sheet(dark, height=max(320, 130 + 54 * len(rows)), legend=False)
    lenses = ["rounded" if str(column).startswith("W") else "corrected" if means_run(str(column)) else "full"
              for column in rows["column"]]  # fmt: skip
    figure.add_trace(
        go.Bar(
            y=[escape(str(column)) for column in rows["column"]],
            x=rows["tokens_per_second"],
            orientation="h",
            marker={"color": [lens_colour(lens, dark) for lens in lenses]},
            text=[
                f"{formatting.tokens_per_second(row.tokens_per_second)}, {formatting.size(row.weight_bytes)}"
                for row in rows.itertuples()
            ],
            textposition="outside",
            textfont={"color": palette(dark).ink},
            cliponaxis=False,
            hovertemplate="%{y}<br><b>%{x:.2f} tokens/s</b><extra></extra>",
        )
    )
    figure.update_xaxes(title_text="tokens per second", range=[0, float(rows["tokens_per_second"].max()) * 1.35])
    figure.update_yaxes(showgrid=False, type="category")
    figure.update_layout(uirevision="decode", margin={"t": 20})
    return style_axes(figure, dark)


def _roofs(rows: pd.DataFrame) -> dict[str, float]:
    """Peak arithmetic speeds in GOP/s of the layer's products, highest first.

    Keys are the names on the page.
    """
    kinds = rows[_above_zero(rows, "ceiling_gop_per_second") & _above_zero(rows, "operations")]
    if kinds.empty:
        best = float(rows["speed"].max())
        return {f"best measured: {best:,.0f} GOP/s": best}
    kinds = kinds.assign(products=kinds["operations"] / kinds["work"])
    roofs = {}
    for (path, products), part in kinds.groupby(["path", "products"]):
        roof = float(part["ceiling_gop_per_second"].max() / products)
        binary = f", {products:.0f} binary products" if products > 1 else ""
        roofs[f"{path}{binary}: {roof:,.0f} GOP/s"] = roof
    return dict(sorted(roofs.items(), key=lambda item: -item[1]))


def _above_zero(rows: pd.DataFrame, column: str) -> pd.Series:
    """Mask of the rows that have this value above 0.

    Older timings lack some columns, and imported ones may hold 0.
    """
    if column not in rows:
        return pd.Series(False, rows.index)
    return pd.to_numeric(rows[column]).gt(0)


def _packed_engine(kernels: pd.DataFrame) -> pd.DataFrame:
    """The packed engine's rows with escaped names."""
    if kernels.empty:
        return kernels
    rows = kernels[kernels["engine"].eq("abq")]
    return rows.assign(**{name: rows[name].map(str).map(escape) for name in ("precision", "path")})
