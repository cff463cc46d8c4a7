"""One self-contained HTML file about runs: a table, and figures of before and after. It loads nothing."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import pandas
import plotly.graph_objects as go
import plotly.io
import plotly.offline

from abq_core.spec import CalibrationSpec
from app import formatting
from app.figures.attention import attention_figure
from app.figures.blocks import blocks_figure
from app.figures.histograms import level_figure, paired_figure
from app.figures.losses import loss_figure
from app.figures.palette import DARK, FONT_FAMILY, LIGHT, Palette
from app.figures.pareto import pareto_figure
from app.files import write_atomically
from app.services.errors import ServiceError
from app.services.jobs import JobService
from app.services.runs import RunService
from app.services.tasks import TaskService

HEADER = (
    "Run", "Precision", "Method", "Perplexity", "KL to full", "Same top token", "Tasks", "Stored bits",
    "Information bits", "Weights", "Note",
)  # fmt: skip
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


class Figure:
    """A figure for a light and a dark page, and what to look at in it."""

    def __init__(self, caption: str, light: go.Figure, dark: go.Figure) -> None:
        self.caption, self.light, self.dark = caption, light, dark


class ReportService:
    """Writes reports about runs."""

    def __init__(self, runs: RunService, jobs: JobService, tasks: TaskService) -> None:
        self._runs, self._jobs, self._tasks = runs, jobs, tasks

    def write(self, run_ids: Sequence[str], path: Path) -> Path:
        """Write the report about these runs, or all that succeeded. Raises ServiceError, RunNotFoundError."""
        frame = self._runs.frame()
        wanted = [self._runs.get(run_id).id for run_id in run_ids] or list(
            frame.loc[(frame["state"] == "succeeded") & (frame["run"] != ""), "run"]
        )
        if not wanted:
            raise ServiceError(
                "There is no finished run to report on. `abq calibrate` makes one, `abq jobs list` shows them."
            )
        models = {self._runs.get(run_id).model for run_id in wanted}
        full = frame[(frame["run"] == "") & frame["model"].isin(models)]
        table = pandas.concat([full, frame.set_index("run", drop=False).loc[wanted]])
        corrected = {(row["model"], row["precision"]) for row in table.to_dict("records") if row["method"] != "rtn"}
        shown = [  # the figures of a corrected run show rounding too
            row["run"]
            for row in table.to_dict("records")
            if row["run"] and (row["method"] != "rtn" or (row["model"], row["precision"]) not in corrected)
        ]
        sections = [_overview(table), *(self._run_section(run_id) for run_id in shown)]
        write_atomically(path.expanduser().absolute(), _page(sorted(models), "\n".join(sections)).encode())
        return path.expanduser().absolute()

    def _run_section(self, run_id: str) -> str:
        run = self._runs.get(run_id)
        command = CalibrationSpec.from_dict(run.spec).command_line()
        figures = "".join(
            _draw(f"{run_id}-{number}", figure) for number, figure in enumerate(self._figures(run_id), start=1)
        )
        return (
            f"<section><h2>{escape(run.precision)} {escape(run.method)} of {escape(run.model)}</h2>"
            f"<p class='quiet'>Run {escape(run_id)}. Made by <code>{escape(command)}</code>. "
            f"Calibrated on {escape(formatting.texts(self._runs.texts(run_id)))}.</p>"
            f"{_tasks(self._tasks.frame(run_id))}{figures}</section>"
        )

    def _figures(self, run_id: str) -> Iterator[Figure]:
        """Before and after, as far as the run has diagnostics."""
        folder = self._runs.folder(run_id)
        names = folder.frame_names()
        if "blocks" in names:
            frame = folder.read_frame("blocks")
            caption = (
                "Block outputs against full precision: how far rounding drifts, and how much of that is taken back."
            )
            yield Figure(caption, blocks_figure(frame), blocks_figure(frame, dark=True))
        if "histograms" in names:
            frame = folder.read_frame("histograms")
            levels = folder.read_frame("levels") if "levels" in names else pandas.DataFrame()
            for kind, block, tensor, caption in _shown(frame):
                yield Figure(
                    caption,
                    paired_figure(frame, block, tensor, kind),
                    paired_figure(frame, block, tensor, kind, dark=True),
                )
                if kind == "weight" and len(levels):
                    caption = f"How often {tensor} of block {block} uses each level."
                    yield Figure(
                        caption, level_figure(levels, block, tensor), level_figure(levels, block, tensor, dark=True)
                    )
        if "attention" in names:
            frame, tokens = folder.read_frame("attention"), folder.read_frame("attention_tokens")
            last = int(frame["block"].max()) if len(frame) else 0
            caption = f"Where the first head of block {last} looks, and what is left of the difference."
            yield Figure(
                caption, attention_figure(frame, tokens, last, 0), attention_figure(frame, tokens, last, 0, dark=True)
            )
        losses = self._jobs.losses(run_id)
        if len(losses):
            caption = "The loss while each block was learned."
            yield Figure(caption, loss_figure(losses), loss_figure(losses, dark=True))


def _overview(table: pandas.DataFrame) -> str:
    cells = "".join(f"<th scope='col'>{escape(name)}</th>" for name in HEADER)
    rows = "".join(_table_row(row) for row in table.to_dict("records"))
    figure = Figure(
        "Left is smaller, lower is better.", pareto_figure(table, dark=False), pareto_figure(table, dark=True)
    )
    return (
        f"<p class='answer'>{escape(_answer(table))}</p>"
        f"<div class='wide'><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"{_draw('overview', figure)}"
    )


def _table_row(row: dict[str, Any]) -> str:
    cells = [
        row["run"] or "-",
        row["precision"],
        row["method"],
        formatting.perplexity(row["perplexity"], row["perplexity_stderr"]),
        formatting.nats(row["kl_mean"]),
        formatting.percent(row["same_top"]),
        formatting.task_average(row),
        formatting.bits(row["stored_bits"]),
        formatting.bits(row["information_bits"]),
        formatting.size(row["weight_bytes"]),
        row["note"],
    ]
    return f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"


def _answer(table: pandas.DataFrame) -> str:
    """The result in words: the corrected run that keeps most of the top tokens."""
    runs = table[(table["run"] != "") & table["same_top"].notna()]
    full = table[table["run"] == ""]
    if runs.empty or full.empty:
        return "These runs were not evaluated against full precision."
    best = runs.sort_values("same_top").iloc[-1]
    smaller = full.iloc[0]["weight_bytes"] / best["weight_bytes"]
    return (
        f"{best['precision']} with {best['method']} keeps {formatting.percent(best['same_top'])} of the top tokens, "
        f"and its weights are {smaller:.1f} times smaller than 16-bit ones."
    )


def _tasks(scores: pandas.DataFrame) -> str:
    """What each task gave, as a table; nothing where none was asked."""
    if scores.empty:
        return ""
    header = "".join(f"<th scope='col'>{escape(name)}</th>" for name in formatting.TASK_HEADER)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in formatting.task_cells(row))}</tr>"
        for row in scores.to_dict("records")
    )
    return f"<div class='wide'><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>"


def _shown(histograms: pandas.DataFrame) -> Iterator[tuple[str, int, str, str]]:
    """One tensor of each kind, of the last block, where errors have added up."""
    for kind, word in (("weight", "weights"), ("activation", "input activations"), ("output", "output")):
        rows = histograms[histograms["kind"] == kind]
        if rows.empty:
            continue
        block = int(rows["block"].max())
        tensors = sorted(rows.loc[rows["block"] == block, "tensor"].unique())
        tensor = next((name for name in tensors if name.endswith(("down_proj", "fc2"))), tensors[0])
        of = "" if kind == "output" else f" of {tensor}"
        yield kind, block, tensor, f"The {word}{of} in block {block}, before and after correction."


def _draw(name: str, figure: Figure) -> str:
    """A place for the figure and its data; the page's script draws the light or the dark one."""
    themes = {"light": figure.light, "dark": figure.dark}
    data = "{" + ",".join(f"{json.dumps(theme)}:{plotly.io.to_json(drawn)}" for theme, drawn in themes.items()) + "}"
    return (
        f"<figure><div class='plot' id='plot-{escape(name)}'></div><figcaption>{escape(figure.caption)}</figcaption>"
        f"<script type='application/json' data-for='plot-{escape(name)}'>{_inert(data)}</script></figure>"
    )


def _inert(data: str) -> str:
    """JSON that cannot end its script element, whatever text is in it."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(models: list[str], body: str) -> str:
    title = f"ABQ Explorer: {', '.join(models)}"
    made = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<script>{plotly.offline.get_plotlyjs()}</script></head>
<body><main><h1>{escape(title)}</h1>
<p class="quiet">Made {escape(made)}. Grey is full precision, amber rounded only, teal corrected.</p>
{body}
</main><script>{_SCRIPT}</script></body></html>
"""


def _variables(colours: Palette) -> str:
    return f"--paper: {colours.background}; --ink: {colours.ink}; --quiet: {colours.muted}; --line: {colours.grid};"


_STYLE = f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 {FONT_FAMILY}; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 32px 24px 96px; }}
h1 {{ font-size: 28px; margin: 0 0 4px; }} h2 {{ font-size: 21px; margin: 56px 0 4px; }}
.answer {{ font-size: 20px; margin: 24px 0; }}
.quiet, figcaption {{ color: var(--quiet); font-size: 14px; margin: 4px 0 16px; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th, td {{ text-align: left; padding: 6px 16px 6px 0; border-bottom: 1px solid var(--line); }}
th {{ color: var(--quiet); font-weight: 500; font-size: 13px; }}
figure {{ margin: 24px 0; }} code {{ font: 13px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }}
"""
_SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  for (const holder of document.querySelectorAll("script[data-for]")) {
    const figure = JSON.parse(holder.textContent)[dark.matches ? "dark" : "light"];
    Plotly.react(holder.dataset.for, figure.data, figure.layout, {responsive: true, displaylogo: false});
  }
}
dark.addEventListener("change", draw);
draw();
"""
