"""Reports: one self-contained HTML file with a table and figures of the runs.

The file loads nothing from the network: plotly, styles and data are in it.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pandas
import plotly.graph_objects as go
import plotly.io
import plotly.offline

from abq_core.analysis.attention_heads import attention_heads, compared_lens
from abq_core.models.gguf.weights import StoredWeights
from abq_core.text.records import TextRecord
from app import formatting
from app.figures.attention import attention_figure
from app.figures.attention_heads import heads_figure
from app.figures.blocks import blocks_figure
from app.figures.histograms import level_figure, paired_figure
from app.figures.losses import loss_figure
from app.figures.palette import DARK, FONT_FAMILY, LIGHT
from app.figures.pareto import pareto_figure
from app.figures.run_lenses import lens_of, under_its_lens
from app.jinja import template_environment
from app.runs.specs import read_spec
from storage.runs import Run

HEADER = (
    "Run", "Precision", "Method", "Perplexity", "KL to full", "Same top token", "Tasks", "Stored bits",
    "Information bits", "Weights", "Bits per parameter", "Note",
)  # fmt: skip

_ENVIRONMENT = template_environment(Path(__file__).with_name("templates"))
_PLOTTED = (("weight", "weights"), ("activation", "input activations"), ("output", "output"))  # kind, its word


@dataclass(frozen=True)
class ReportedRun:
    """One run with figures in the report.

    weights: how the model's GGUF file stores its weights, or None.
    tasks: one row per task.  diagnostics: its diagnostics by name.  losses: block, epoch, term, value.
    """

    run: Run
    texts: Mapping[str, TextRecord]
    weights: StoredWeights | None
    tasks: pandas.DataFrame
    diagnostics: Mapping[str, pandas.DataFrame]
    losses: pandas.DataFrame


@dataclass(frozen=True)
class Report:
    """The content of a report.

    table: one row per run and per model at full precision, as in `RunService.frame`.
    """

    table: pandas.DataFrame
    runs: Sequence[ReportedRun]
    made: datetime


@dataclass(frozen=True)
class _Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class _Figure:
    """A figure with its caption.

    json: the figure for a light and a dark page, safe inside a script element.
    """

    caption: str
    json: str


@dataclass(frozen=True)
class _Section:
    title: str
    run_id: str
    command: str
    texts: str
    weights: str
    tasks: _Table
    figures: Sequence[_Figure]


def render_report(report: Report) -> str:
    """The report as an HTML document."""
    models = sorted(set(report.table["model"]))
    return _ENVIRONMENT.get_template("report.html").render(
        title=f"ABQ Explorer: {', '.join(models)}",
        made=f"{report.made.astimezone():%Y-%m-%d %H:%M %Z}",
        light=LIGHT,
        dark=DARK,
        font_family=FONT_FAMILY,
        plotly=plotly.offline.get_plotlyjs(),
        answer=_answer(report.table),
        overview=_Table(HEADER, [_overview_cells(row) for row in report.table.to_dict("records")]),
        pareto=_figure("Left is smaller, lower is better.", lambda dark: pareto_figure(report.table, dark=dark)),
        colours=_colours({lens_of(run.run.method) for run in report.runs}),
        sections=[_section(run) for run in report.runs],
    )


def _colours(lenses: Collection[str]) -> str:
    """One sentence about the colours of these runs."""
    words = {"rounded": "amber rounded only", "corrected": "teal corrected", "imported": "blue imported"}
    shown = [text for lens, text in words.items() if lens in lenses or (lens == "rounded" and "corrected" in lenses)]
    return f"Grey is full precision, {', '.join(shown)}."


def _overview_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["run"]) or formatting.MISSING,
        str(row["precision"]),
        str(row["method"]),
        formatting.perplexity(row["perplexity"], row["perplexity_stderr"]),
        formatting.kl(row["kl_mean"], row["kl_floor"]),
        formatting.percent(row["same_top"]),
        formatting.task_average(row),
        formatting.bits(row["stored_bits"]),
        formatting.bits(row["information_bits"]),
        formatting.size(row["weight_bytes"]),
        formatting.bits(row["bits_per_parameter"]),
        str(row["note"]),
    ]


def _answer(table: pandas.DataFrame) -> str:
    """One sentence about the run that keeps most of the top tokens."""
    full = table[table["run"] == ""]
    runs = table[(table["run"] != "") & table["same_top"].notna() & table["model"].isin(full["model"])]
    if runs.empty:
        return "These runs were not evaluated against full precision."
    best = runs.sort_values("same_top").iloc[-1]
    full = full[full["model"].eq(best["model"])]
    ratio = full.iloc[0]["weight_bytes"] / best["weight_bytes"]
    return (
        f"{best['precision']} with {best['method']} keeps {formatting.percent(best['same_top'])} of the top tokens, "
        f"and its weights are {ratio:.1f} times smaller than 16-bit ones."
    )


def _section(reported: ReportedRun) -> _Section:
    run = reported.run
    return _Section(
        title=f"{run.precision} {run.method} of {run.model}",
        run_id=run.id,
        command=read_spec(run.spec).command_line(),
        texts=formatting.texts(reported.texts),
        weights="" if reported.weights is None else formatting.stored_weights(reported.weights),
        tasks=_Table(formatting.TASK_HEADER, [formatting.task_cells(row) for row in reported.tasks.to_dict("records")]),
        figures=list(_figures(reported)),
    )


def _figures(reported: ReportedRun) -> Iterator[_Figure]:
    """Figures of before and after calibration, for the diagnostics that the run has."""
    lens = lens_of(reported.run.method)
    frames = {name: under_its_lens(frame, reported.run.method) for name, frame in reported.diagnostics.items()}
    if "blocks" in frames:
        yield _figure(
            "Block outputs against full precision: the drift of rounding, and how much of it calibration removes."
            if lens == "corrected"
            else "Block outputs against full precision, block by block.",
            lambda dark: blocks_figure(frames["blocks"], dark=dark),
        )
    if "histograms" in frames:
        compared = "before and after correction" if lens == "corrected" else f"in full precision and {lens}"
        yield from _histograms(frames["histograms"], frames.get("levels", pandas.DataFrame()), compared)
    if "attention" in frames:
        maps, tokens = frames["attention"], frames["attention_tokens"]
        last = int(maps["block"].max()) if len(maps) else 0
        heads = attention_heads(maps[maps["block"].eq(last)])
        worst = int(heads.loc[heads[f"kl_{compared_lens(maps, 'corrected')}"].idxmax(), "head"]) if len(heads) else 0
        yield _figure(
            f"The attention heads of block {last}, largest KL divergence from full precision first, and their entropy.",
            lambda dark: heads_figure(maps, heads, last, worst, dark),
        )
        yield _figure(
            f"Attention of head {worst} of block {last}, and its difference from full precision.",
            lambda dark: attention_figure(maps, tokens, heads, (last, worst), dark),
        )
    if len(reported.losses):
        yield _figure("Loss of each block during calibration.", lambda dark: loss_figure(reported.losses, dark=dark))


def _histograms(histograms: pandas.DataFrame, levels: pandas.DataFrame, compared: str) -> Iterator[_Figure]:
    """One tensor of each kind, of the last block, where errors have accumulated. compared: for the captions."""
    for kind, word in _PLOTTED:
        rows = histograms[histograms["kind"] == kind]
        if rows.empty:
            continue
        block = int(rows["block"].max())
        tensors = sorted(rows.loc[rows["block"] == block, "tensor"].unique())
        tensor = next((name for name in tensors if name.endswith(("down_proj", "fc2"))), tensors[0])
        of = "" if kind == "output" else f" of {tensor}"
        yield _figure(
            f"The {word}{of} in block {block}, {compared}.",
            partial(paired_figure, histograms, block, tensor, kind),
        )
        if kind == "weight" and len(levels):
            yield _figure(
                f"How often {tensor} of block {block} uses each level.",
                partial(level_figure, levels, block, tensor),
            )


def _figure(caption: str, draw: Callable[..., go.Figure]) -> _Figure:
    """A figure in both themes. draw: takes `dark`."""
    themes = {"light": plotly.io.to_json(draw(dark=False)), "dark": plotly.io.to_json(draw(dark=True))}
    data = "{" + ",".join(f"{json.dumps(theme)}:{drawn}" for theme, drawn in themes.items()) + "}"
    # Without these three characters no text in the data can end the script element.
    return _Figure(caption, data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
