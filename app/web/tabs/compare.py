"""Compare: which one do I take? All runs, the front of size and perplexity, a small sweep, reports."""

import shlex
from dataclasses import replace

import gradio as gr
import pandas as pd

from abq_core.spec import METHODS, CalibrationSpec
from app import formatting
from app.figures.pareto import front, lens_of, pareto_figure
from app.web.tabs import words
from app.web.tabs.budget_panel import build_budget_panel
from app.web.tabs.guard import guarded
from app.web.tabs.jobs_panel import PRIVATE
from app.web.tabs.page import PRECISIONS, Page
from app.web.tabs.picture import build_picture, framed
from app.web.tabs.selection import Selection
from app.web.tabs.table import Cell, Heading, build_table, table
from app.web.tabs.task_scores import task_table

CAPTION = (
    "Look at the dotted front: nothing measured here is both smaller and better than the points on it. "
    "Bars are standard errors; a larger marker decodes faster; a magenta rim is bit balance."
)
WHERE_IT_LOADS = [
    ("ABQ Explorer", "yes"),
    ("transformers, vLLM, llama.cpp", "not yet"),
]
MOST_JOBS = 24
VIEWS = ["All runs", "Bits under a budget"]
EMPTY = words.empty(
    "No runs yet",
    "Here all runs will stand side by side: size, perplexity with its standard error, distance to full precision. "
    "The sweep on the left queues several calibrations at once.",
)


def build_compare_tab(page: Page) -> None:
    """A sweep and what to do with the chosen run on the left; the front and all runs on the right. Or a budget."""
    view = gr.Radio(VIEWS, value=VIEWS[0], show_label=False, container=False, elem_id="compare-view")
    with gr.Row(elem_classes="abq-tab") as all_runs:
        with gr.Column(elem_classes="abq-choices"):
            precisions = gr.Dropdown(
                PRECISIONS, value=["W4A4", "W2*A8"], multiselect=True, allow_custom_value=True,
                label="Sweep: precisions", elem_id="compare-precisions",
            )  # fmt: skip
            methods = gr.CheckboxGroup(list(METHODS), value=["rtn", "abq"], label="Methods", elem_id="compare-methods")
            sweep = gr.Button("Calibrate all of these", variant="primary", elem_id="compare-sweep")
            links = gr.HTML("", js_on_load=None, elem_id="compare-links")
            with gr.Column(visible=False) as actions:
                note = gr.Textbox(label="Note on the chosen run", max_length=500, elem_id="compare-note")
                delete = gr.Button("Delete the chosen run", elem_id="compare-delete")
                sure = gr.Button("Yes, delete it and its files", variant="stop", visible=False, elem_id="compare-sure")
            command = gr.HTML("", js_on_load=None)
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(words.answer("&nbsp;"), elem_id="compare-answer", js_on_load=None)
            figure = build_picture("compare-figure")
            runs_table = build_table("compare-runs")
            tasks_table = build_table("compare-tasks")
    budget = build_budget_panel(page, visible=False)
    noted = gr.State("")  # the run whose note is in the box: what is being typed stays until another run is chosen
    outputs = [answer, figure, runs_table, tasks_table, links, actions, note, noted, sure, command]

    @guarded(len(outputs))
    def show(text: str, precisions: list[str], methods: list[str], shown: str) -> list[object]:
        selection = Selection.from_json(text)
        if selection.tab != "compare":
            return [gr.skip()] * len(outputs)
        runs = page.services.runs.newest_frame()
        mine = _with_speed(runs[runs["model"].eq(selection.model)], page.services.timings.frame())
        chosen = mine[mine["run"].eq(selection.run)] if selection.run else mine.iloc[:0]
        return [
            words.answer(_answer(mine)),
            framed(pareto_figure(mine, selection.dark), CAPTION, "abq/runs.csv", "runs") if len(mine) else "",
            _table(mine, selection.run) if len(mine) else EMPTY,
            task_table(page.services.tasks.frame(), selection.model),
            _links(mine, chosen),
            gr.update(visible=len(chosen) > 0),
            gr.skip() if selection.run == shown else str(chosen.iloc[0]["note"]) if len(chosen) else "",
            selection.run,
            gr.update(visible=False),
            words.command("\n".join(spec.command_line() for spec in _specs(page, selection, precisions, methods))),
        ]

    @guarded(2 + len(page.header.outputs))
    def start(text: str, precisions: list[str], methods: list[str]) -> list[object]:
        specs = _specs(page, Selection.from_json(text), precisions, methods)
        if not 1 <= len(specs) <= MOST_JOBS:
            raise ValueError(f"That is {len(specs)} calibrations: choose 1 to {MOST_JOBS} at a time.")
        page.limits.check_queue(len(specs))
        jobs = [page.services.jobs.submit(spec) for spec in specs]
        said = words.answer(f"{len(specs)} calibrations are queued.")
        return [said, gr.Tabs(selected="calibrate"), *page.header.follow(text, str(jobs[0].spec["model"]))]

    @guarded(1 + len(page.header.outputs))
    def choose(text: str, event: gr.SelectData) -> list[object]:
        selection = replace(Selection.from_json(text), run=str(event.value))
        return [gr.skip(), *page.header.show(selection.settled(page.services.runs.newest_frame()))]

    @guarded(1)
    def keep_note(text: str, note: str) -> list[object]:
        page.services.runs.set_note(Selection.from_json(text).run, note or "")
        return [words.answer("The note is kept.")]

    @guarded(1 + len(page.header.outputs))
    def remove(text: str) -> list[object]:
        selection = Selection.from_json(text)
        page.services.runs.delete(selection.run)
        rest = replace(selection, run="").settled(page.services.runs.newest_frame())
        return [words.answer(f"Run {words.escape(selection.run)} and its files are deleted."), *page.header.show(rest)]

    def turn(view: str) -> list[object]:
        return [gr.update(visible=view == VIEWS[0]), gr.update(visible=view == VIEWS[1])]

    view.change(turn, view, [all_runs, budget], **PRIVATE)
    form = [page.selection, precisions, methods]
    gr.on([page.selection.change, precisions.input, methods.input], show, [*form, noted], outputs, **PRIVATE)
    sweep.click(start, form, [answer, page.tabs, *page.header.outputs], **PRIVATE)
    runs_table.select(choose, page.selection, [answer, *page.header.outputs], **PRIVATE)
    note.submit(keep_note, [page.selection, note], answer, **PRIVATE).then(show, [*form, noted], outputs, **PRIVATE)
    delete.click(lambda: gr.update(visible=True), None, sure, **PRIVATE)
    sure.click(remove, page.selection, [answer, *page.header.outputs], **PRIVATE)


def _specs(page: Page, selection: Selection, precisions: list[str], methods: list[str]) -> list[CalibrationSpec]:
    """Every precision with every method."""
    device = page.services.settings.device
    return [
        CalibrationSpec(selection.model, page.services.models.precision(precision), method, device=device)
        for precision in precisions or []
        for method in methods or []
    ]


def _with_speed(runs: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Runs with the newest decode speed that was measured of them."""
    if measured.empty or "column" not in measured:
        return runs
    newest = measured[measured["kind"].eq("decode")].drop_duplicates("column").set_index("column")["tokens_per_second"]
    columns = runs["run"].where(runs["run"].ne(""), "fp32")
    return runs.assign(tokens_per_second=columns.map(newest))


def _answer(runs: pd.DataFrame) -> str:
    measured = runs.dropna(subset=["perplexity", "weight_bytes"])
    if measured.empty:
        return "Nothing is evaluated yet: calibrate a precision, or start the sweep."
    on_front = front(measured)
    best = on_front.iloc[0]
    return (
        f"{len(on_front)} of {len(measured)} are on the front. The smallest is "
        f"<b>{words.escape(str(best['precision']))} {words.escape(str(best['method']))}</b>: "
        f"{formatting.size(best['weight_bytes'])} at {words.term('perplexity')} "
        f"{formatting.perplexity(best['perplexity'], best['perplexity_stderr'])}. "
        "Choose a row to carry it to the other tabs."
    )


def _table(runs: pd.DataFrame, chosen: str) -> str:
    headings = [
        Heading("precision"), Heading("method"), Heading(words.term("perplexity"), numeric=True),
        Heading(words.term("KL"), numeric=True), Heading(words.term("same top token"), numeric=True),
        Heading(words.term("tasks"), numeric=True),
        Heading(f"{words.term('stored bits')} ({words.term('information bits', 'information')})", numeric=True),
        Heading("size", numeric=True), Heading("run"), Heading("note"),
    ]  # fmt: skip
    rows = []
    for run in runs.to_dict("records"):
        lens = lens_of(str(run["method"]))
        method = "full precision" if run["method"] == "none" else str(run["method"])
        kl = formatting.number(run["kl_mean"])
        measured = formatting.perplexity(run["perplexity"], run["perplexity_stderr"])
        rows.append(
            (
                str(run["run"]),
                [
                    Cell(
                        f'<span class="abq-mark abq-{lens}"></span>{words.escape(str(run["precision"]))}',
                        str(run["precision"]),
                        html=True,
                    ),
                    Cell(method),
                    Cell(measured if kl is not None else str(run["state"]), _order(run["perplexity"])),
                    Cell(formatting.nats(kl), _order(kl)),
                    Cell(formatting.percent(run["same_top"]), _order(run["same_top"])),
                    Cell(formatting.task_average(run), _order(run["task_score"])),
                    Cell(
                        f"{formatting.bits(run['stored_bits'])} ({formatting.bits(run['information_bits'])})",
                        _order(run["information_bits"]),
                    ),
                    Cell(formatting.size(run["weight_bytes"]), _order(run["weight_bytes"])),
                    Cell(str(run["run"]) or formatting.MISSING),
                    Cell(
                        f'<span class="abq-wrap">{words.escape(str(run["note"]))}</span>', str(run["note"]), html=True
                    ),
                ],
            )
        )
    return table(headings, rows, "All runs of this model", chosen)


def _order(value: object) -> float | str:
    number = formatting.number(value)
    return "" if number is None else number


def _links(runs: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """What can be taken away: the report of all finished runs, and the chosen run with where it loads."""
    finished = runs[runs["run"].ne("") & runs["state"].eq("succeeded")]["run"]
    if finished.empty:
        return ""
    command = words.command(shlex.join(["abq", "report", *finished]))
    report = (
        f'<p><a class="abq-csv" href="abq/report.html?runs={",".join(finished)}" download>Download the report</a> of '
        f"{len(finished)} runs: one HTML file.</p>{command}"
    )
    taken = [run for run in chosen["run"] if run in set(finished)]
    if not taken:
        return report
    return (
        f'{report}<p><a class="abq-csv" href="abq/run/{taken[0]}.zip" download>Download this run</a>: spec, integer '
        f"weights, diagnostics, evaluation. Where it loads:</p>{words.facts(WHERE_IT_LOADS)}"
        f"{words.command(shlex.join(['abq', 'runs', 'export', taken[0]]))}"
    )
