"""The Compare tab: which run to take.

All runs, the Pareto front of size and perplexity, a small sweep, reports.
"""

import shlex
from dataclasses import replace
from typing import NamedTuple

import gradio as gr
import pandas as pd

from abq_core.methods import METHODS
from abq_core.spec import CalibrationSpec
from app.figures.pareto import front, pareto_figure, size_column
from app.figures.run_lenses import lens_of
from app.formatting import MISSING, bits, kl, number, percent, perplexity, size, task_average
from app.services.dataframes import MEASURED_ON
from app.services.speed.timings import this_device
from app.web import html
from app.web.access.login import account_of
from app.web.page.callbacks import FOLLOW, PRIVATE, Updates, callback, event
from app.web.page.context import Page
from app.web.page.header import PRECISIONS
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.table import Cell, Heading, build_table, sort_number, table
from app.web.tabs.compare.budget_panel import build_budget_panel
from app.web.tabs.compare.evaluation_form import build_evaluation_form, choices, kl_buckets_picture
from app.web.tabs.compare.example_switch import build_example_switch
from app.web.tabs.compare.export_panel import build_export_panel
from app.web.tabs.compare.import_panel import build_import_panel
from app.web.tabs.compare.kv_panel import build_kv_panel
from app.web.tabs.compare.plane_panel import build_plane_panel
from app.web.tabs.compare.task_scores import task_table
from app.web.tabs.compare.text_lab_panel import build_text_lab_panel

CAPTION = (
    "Look at the dotted Pareto front: no measured run is both smaller and better than its points. Error bars are "
    "standard errors, a larger marker decodes faster, and a magenta outline means bit balance."
)
MOST_JOBS = 24
ALL_RUNS, BUDGET, TEXTS = "All runs", "Bits under a budget", "Calibration text"
PLANES, KV_CACHE = "Fewer planes", "KV cache"
EMPTY = (
    "No runs yet",
    "This tab compares all runs of a model: size, perplexity with its standard error, and distance to full precision. "
    "The sweep on the left queues several calibrations at once.",
)


def build_compare_tab(page: Page) -> None:
    """Build the tab: a sweep and actions on the selected run left, front and runs right.

    The other views show bits under a budget, which text to calibrate on, a run at fewer bits, and smaller KV caches.
    """
    views = [ALL_RUNS, BUDGET, TEXTS, PLANES, KV_CACHE]
    view = gr.Radio(views, value=ALL_RUNS, show_label=False, container=False, elem_id="compare-view")
    with gr.Row(elem_classes="abq-tab") as all_runs:
        with gr.Column(elem_classes="abq-choices"):
            precisions = gr.Dropdown(
                PRECISIONS, value=["W4A4", "W2*A8"], multiselect=True, allow_custom_value=True,
                label="Sweep: precisions", elem_id="compare-precisions",
            )  # fmt: skip
            methods = gr.CheckboxGroup(list(METHODS), value=["rtn", "abq"], label="Methods", elem_id="compare-methods")
            sweep = gr.Button("Calibrate all", variant="primary", elem_id="compare-sweep")
            evaluation = build_evaluation_form()
            imports = build_import_panel()
            links = gr.HTML("", js_on_load=None, elem_id="compare-links")
            actions = _build_actions()
            examples = build_example_switch()
            command = gr.HTML("", js_on_load=None)
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="compare-answer", js_on_load=None)
            figure = build_picture("compare-figure")
            runs_table = build_table("compare-runs")
            kl_figure = build_picture("compare-kl")
            tasks_table = build_table("compare-tasks")
    noted = gr.State("")  # the run whose note the box holds: typing is not overwritten until another run is selected

    @callback(answer, tab="compare")
    def show(
        selection: Selection, precisions: list[str], methods: list[str], measured_on: str, noted_run: str
    ) -> Updates:
        labels = page.services.runs.texts_of(selection.model)
        measured_on = measured_on if measured_on in labels else ""
        newest = page.services.runs.newest_frame(measured_on)
        runs = _with_speed(newest[newest["model"].eq(selection.model)], page.services.timings.frame())
        selected = runs[runs["run"].eq(selection.run)] if selection.run else runs.iloc[:0]
        specs = _specs(page, selection, precisions, methods)
        updates = {
            **examples.shown(page),
            answer: html.answer(_answer(runs), "compare"),
            figure: framed(pareto_figure(runs, selection.dark), CAPTION, "abq/runs.csv", "runs") if len(runs) else "",
            runs_table: _table(runs, selection.run) if len(runs) else html.empty(*EMPTY),
            tasks_table: task_table(page.services.tasks.frame(), selection.model),
            kl_figure: kl_buckets_picture(page, runs, selection, measured_on),
            evaluation.measured_on: gr.update(choices=choices(labels), value=measured_on),
            links: _links(runs, selected),
            actions.column: gr.update(visible=len(selected) > 0),
            noted: selection.run,
            command: html.command(spec.command_line() for spec in specs),
        }
        if selection.run == noted_run:
            return updates
        noted_now = str(selected.iloc[0]["note"]) if len(selected) else ""
        return {**updates, actions.note: noted_now, actions.question: gr.update(visible=False)}

    @callback(answer)
    def start(selection: Selection, precisions: list[str], methods: list[str], request: gr.Request) -> Updates:
        specs = _specs(page, selection, precisions, methods)
        if not 1 <= len(specs) <= MOST_JOBS:
            raise ValueError(f"That is {len(specs)} calibrations: choose 1 to {MOST_JOBS} at a time.")
        jobs = page.services.jobs.submit_all(specs, account_of(request), page.limits.max_queued)
        return {
            answer: html.answer(f"{len(specs)} calibrations are queued."),
            page.tabs: gr.Tabs(selected="calibrate"),
            **page.header.follow(selection, str(jobs[0].spec["model"])),
        }

    @callback(answer)
    def choose(selection: Selection, event: gr.SelectData) -> Updates:
        return page.header.show_settled(replace(selection, run=str(event.value)))

    @callback(answer)
    def save_note(selection: Selection, text: str | None) -> Updates:
        page.services.runs.set_note(selection.run, text or "")
        return {answer: html.answer("The note is saved.")}

    @callback(answer)
    def remove(selection: Selection) -> Updates:
        page.services.runs.delete(selection.run)
        deleted = html.answer(f"Run {selection.run} and its files are deleted.")
        return {answer: deleted, **page.header.show_settled(replace(selection, run=""))}

    form = [page.selection, precisions, methods]
    shown_on = [*form, evaluation.measured_on, noted]
    outputs = [
        answer, figure, runs_table, kl_figure, tasks_table, links, actions.column, actions.note, noted,
        actions.question, command, evaluation.measured_on, examples.button,
    ]  # fmt: skip
    header = [answer, *page.header.outputs]
    gr.on([page.turn("compare"), *(one.input for one in shown_on[1:-1])], show, shown_on, outputs, **FOLLOW)
    evaluation.on_evaluation(page).then(show, shown_on, outputs, **PRIVATE)
    examples.on_switch(page, answer).then(show, shown_on, outputs, **PRIVATE)
    imports.wire(page, answer)
    sweep.click(start, form, [answer, page.tabs, *page.header.outputs], **PRIVATE)
    runs_table.select(choose, page.selection, header, **PRIVATE)
    actions.note.submit(save_note, [page.selection, actions.note], answer, **PRIVATE).then(
        show, shown_on, outputs, **PRIVATE
    )
    actions.sure.click(remove, page.selection, header, **PRIVATE)
    _build_panels(page, view, all_runs)  # last: their functions start after that of the whole tab


def _build_panels(page: Page, view: gr.Radio, all_runs: gr.Row) -> None:
    """The hidden views, what switches between all of them, and below them the export of the selected run."""
    rows = {
        ALL_RUNS: all_runs,
        BUDGET: build_budget_panel(page, visible=False),
        TEXTS: build_text_lab_panel(page, view, TEXTS),
        PLANES: build_plane_panel(page, view, PLANES),
        KV_CACHE: build_kv_panel(page, view, KV_CACHE),
    }
    build_export_panel(page)

    @event
    def choose_view(name: str) -> Updates:
        return {row: gr.update(visible=name == title) for title, row in rows.items()}

    view.change(None, None, None, js="() => window.abq.turn('compare-view')", **PRIVATE)
    view.change(choose_view, view, list(rows.values()), **PRIVATE)


class _Actions(NamedTuple):
    """Actions on the selected run: their column, the note, and the question before a deletion with its yes."""

    column: gr.Column
    note: gr.Textbox
    question: gr.Column
    sure: gr.Button


def _build_actions() -> _Actions:
    with gr.Column(visible=False) as column:
        note = gr.Textbox(label="Note on the selected run", max_length=500, elem_id="compare-note")
        delete = gr.Button("Delete the selected run", elem_id="compare-delete")
        with gr.Column(visible=False) as question:
            sure = gr.Button("Yes, delete it and its files", variant="stop", elem_id="compare-sure")
            keep = gr.Button("No, keep it", elem_id="compare-keep")
    delete.click(lambda: gr.update(visible=True), None, question, **PRIVATE)
    keep.click(lambda: gr.update(visible=False), None, question, **PRIVATE)
    return _Actions(column, note, question, sure)


def _specs(page: Page, selection: Selection, precisions: list[str], methods: list[str]) -> list[CalibrationSpec]:
    """Every precision with every method."""
    device = page.services.settings.device
    return [
        CalibrationSpec(selection.model, page.services.models.precision(precision), method, device=device)
        for precision in precisions or []
        for method in methods or []
    ]


def _with_speed(runs: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Runs of one model with their newest decode speed on this machine's CPU."""
    if measured.empty or "column" not in measured:
        return runs
    measured = measured[measured["machine"].eq(this_device()) & measured["model"].isin(runs["model"])]
    newest = measured[measured["kind"].eq("decode")].drop_duplicates("column").set_index("column")["tokens_per_second"]
    columns = runs["run"].where(runs["run"].ne(""), "fp32")
    return runs.assign(tokens_per_second=columns.map(newest))


def _answer(runs: pd.DataFrame) -> str:
    evaluated = runs.dropna(subset=["perplexity", "weight_bytes"])
    if evaluated.empty:
        return "Nothing is evaluated yet: calibrate a precision, or start the sweep."
    on_front = front(evaluated)
    return html.render(
        "compare_answer.html",
        on_front=len(on_front),
        evaluated=len(evaluated),
        best=on_front.iloc[0].to_dict(),
        best_bytes=on_front.iloc[0][size_column(evaluated)],
        examples=int((evaluated["example"] & evaluated["run"].ne("")).sum()),
        texts=len(evaluated[MEASURED_ON].drop_duplicates()),
    )


def _table(runs: pd.DataFrame, selected: str) -> str:
    headings = [
        Heading("precision", wraps=True), Heading("method"), Heading(html.term("perplexity"), numeric=True),
        Heading(html.term("KL"), numeric=True), Heading(html.term("same top token"), numeric=True),
        Heading(html.term("tasks"), numeric=True, optional=1),
        Heading(html.render("bits_heading.html"), numeric=True, optional=2),
        Heading("linear layers", numeric=True, optional=3),
        Heading(html.term("bits per parameter"), numeric=True, optional=4),
        Heading("run"), Heading("note", wraps=True),
    ]  # fmt: skip
    rows = [(str(run["run"]), _cells(run)) for run in runs.to_dict("records")]
    return table(headings, rows, "All runs of this model", selected)


def _cells(run: dict[str, object]) -> list[Cell]:
    precision, evaluated = str(run["precision"]), number(run["kl_mean"]) is not None
    return [
        Cell(html.render("lens_mark.html", lens=lens_of(str(run["method"])), text=precision), precision),
        Cell(_method(run)),
        Cell(
            perplexity(run["perplexity"], run["perplexity_stderr"]) if evaluated else str(run["state"]),
            sort_number(run["perplexity"]),
        ),
        Cell(html.render("lines.html", lines=_kl_lines(run)), sort_number(run["kl_mean"])),
        Cell(percent(run["same_top"]), sort_number(run["same_top"])),
        Cell(task_average(run), sort_number(run["task_score"])),
        Cell(f"{bits(run['stored_bits'])} ({bits(run['information_bits'])})", sort_number(run["information_bits"])),
        Cell(size(run["weight_bytes"]), sort_number(run["weight_bytes"])),
        Cell(bits(run["bits_per_parameter"]), sort_number(run["bits_per_parameter"])),
        Cell(str(run["run"]) or MISSING),
        Cell(str(run["note"])),
    ]


def _method(run: dict[str, object]) -> str:
    method = "full precision" if run["method"] == "none" else str(run["method"])
    return f"{method}, example" if run["example"] else method


def _kl_lines(run: dict[str, object]) -> list[str]:
    """KL above its floor: on one line they would make the table too wide."""
    return kl(run["kl_mean"], run["kl_floor"]).replace(" (", "\n(").split("\n")


def _links(runs: pd.DataFrame, selected: pd.DataFrame) -> str:
    """Download links: the report on finished runs, and the selected run with its loaders."""
    finished = list(runs.loc[runs["run"].ne("") & runs["state"].eq("succeeded"), "run"])
    if not finished:
        return ""
    run = next((run for run in selected["run"] if run in finished), "")
    return html.render(
        "compare_links.html",
        finished=finished,
        report_command=html.command(shlex.join(["abq", "report", *finished])),
        run=run,
        export_command=html.command(shlex.join(["abq", "runs", "export", run])),
    )
