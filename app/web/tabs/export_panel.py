"""Take a run away: export it with a proof, download it, and see where it loads."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import gradio as gr
from markupsafe import Markup

from app.web import html
from app.web.access.private_texts import check_text_access
from app.web.page.callbacks import BUSY, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.selection import Selection
from app.web.page.steps import Steps
from app.web.page.table import Cell, Heading, build_table, table

if TYPE_CHECKING:
    from abq_core.export.loading_table import LoadFact

FORMATS = ["compressed-tensors", "gguf", "transformers"]
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_HEADINGS = (
    Heading("Runtime", wraps=True), Heading("loads", wraps=True), Heading("kernel", wraps=True, optional=1),
    Heading("does not keep", wraps=True), Heading("served by", wraps=True),
    Heading("source", wraps=True, optional=2),
)  # fmt: skip


def build_export_panel(page: Page) -> None:
    """Build the panel: shown while a finished run is selected."""
    with gr.Column(visible=False, elem_id="export-panel") as panel:
        gr.HTML(html.render("heading.html", text="Take the run away"), js_on_load=None)
        with gr.Row():
            format = gr.Radio(FORMATS, value=FORMATS[0], label="Format", elem_id="export-format")
            nearest = gr.Checkbox(label="gguf: round again what is not exact", elem_id="export-nearest")
            start = gr.Button("Export", variant="primary", elem_id="export-start")
            stop = gr.Button("Stop", elem_id="export-stop")
        answer = gr.HTML("", js_on_load=None, elem_id="export-answer")
        gr.HTML(html.render("heading.html", text="Where will it load?"), js_on_load=None)
        where = build_table("export-where")

    def shown(selection: Selection, name: str) -> Markup:
        return _answer(selection.run, name, page.services.exports.kept(selection.run, name))

    @callback(answer, tab="compare")
    def show(selection: Selection, name: str, request: gr.Request) -> Updates:
        if not selection.run:
            return {panel: gr.update(visible=False)}
        run = page.services.runs.get(selection.run)
        if run.state != "succeeded":
            return {panel: gr.update(visible=False)}
        check_text_access(run, request)
        rows = page.services.exports.loading_table(run.id)
        return {panel: gr.update(visible=True), answer: shown(selection, name), where: _table(rows)}

    @callback(answer)
    def export(selection: Selection, name: str, round_again: bool, request: gr.Request) -> Iterator[Updates]:
        """Export in a thread and report progress."""
        from abq_core.export.formats import Options

        check_text_access(page.services.runs.get(selection.run), request)
        yield {answer: html.render("lines.html", lines=[f"Loading the model{ELLIPSIS}"])}

        def work(report: Callable[[tuple[int, int]], None]) -> None:
            options = Options(nearest=bool(round_again))
            page.services.exports.keep(selection.run, name, options, lambda done, total: report((done, total)))

        for done, total in Steps[tuple[int, int]](work):
            part = "Writing, then loading it in its runtime" if done < total else "Done"
            yield {answer: html.render("lines.html", lines=[f"{part}{ELLIPSIS} {100 * done // total} %"])}
        yield {answer: shown(selection, name)}

    gr.on([page.selection.change, format.input], show, [page.selection, format], [panel, answer, where], **PRIVATE)
    exporting = start.click(export, [page.selection, format, nearest], answer, **BUSY)
    stop.click(lambda: html.render("lines.html", lines=["Stopped."]), None, answer, cancels=[exporting], **PRIVATE)


def _answer(run: str, name: str, kept: dict[str, object] | None) -> Markup:
    """What is known of one format: the kept export with its proof, or how to make one."""
    from abq_core.export.formats import format_named
    from abq_core.export.model_card import proof_sentence
    from abq_core.export.proof import Proof

    command = shlex.join(["abq", "export", run, "--to", name, "--out", f"{run}-{name}"])
    proof = kept["proof"] if kept else None
    return html.render(
        "export_answer.html",
        run=run,
        format=name,
        help=format_named(name).help,
        kept=kept,
        sentence=proof_sentence(Proof(**proof)) if isinstance(proof, dict) else "",
        command=html.command(command),
    )


def _table(facts: "Sequence[LoadFact]") -> Markup:
    rows = [
        (
            "",
            [
                Cell(f"{fact.runtime} ({fact.version})"),
                Cell(fact.loads),
                Cell(fact.kernel),
                Cell("; ".join(fact.drops) or "nothing"),
                Cell(html.render("code.html", text=fact.serve) if fact.serve else ""),
                Cell(f"{fact.how}: {', '.join(fact.sources)}"),
            ],
        )
        for fact in facts
    ]
    return table(_HEADINGS, rows, "Where the selected run loads", selectable=False)
