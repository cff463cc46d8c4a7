"""Take a run away: export it with a proof, download it, and see where it loads."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from abq_core.imports.spec import is_import
from app.web import html
from app.web.access.private_texts import check_text_access
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.selection import Selection
from app.web.page.steps import Steps
from app.web.page.table import Cell, Heading, build_table, table

if TYPE_CHECKING:
    from abq_core.export.loading_table import LoadFact

FORMATS = ["compressed-tensors", "gguf", "transformers"]
_HEADINGS = (
    Heading("Runtime", wraps=True), Heading("loads", wraps=True), Heading("kernel", wraps=True, optional=1),
    Heading("does not keep", wraps=True), Heading("served by", wraps=True),
    Heading("source", wraps=True, optional=2),
)  # fmt: skip


def build_export_panel(page: Page) -> None:
    """Build the panel: shown while a finished run is selected."""
    with gr.Column(visible=False, elem_id="export-panel") as panel:
        gr.HTML(html.render("heading.html", text="Export this run"), js_on_load=None)
        with gr.Row():
            format = gr.Radio(FORMATS, value=FORMATS[0], label="Format", elem_id="export-format")
            symmetric = gr.Checkbox(label="activations without zero points, for vLLM", elem_id="export-symmetric")
            nearest = gr.Checkbox(
                label="round tensors that GGUF cannot hold exactly to Q8_0", elem_id="export-nearest", visible=False
            )
            start = gr.Button("Export", variant="primary", elem_id="export-start")
            stop = gr.Button("Stop", elem_id="export-stop")
        answer = gr.HTML("", js_on_load=None, elem_id="export-answer")
        gr.HTML(html.render("heading.html", text="Where will it load?"), js_on_load=None)
        where = build_table("export-where")

    asked = [format, symmetric, nearest]

    def shown(selection: Selection, name: str, plain: bool, again: bool) -> Markup:
        kept = page.services.exports.kept(selection.run, name)
        return _answer(selection.run, name, kept, _options(name, plain, again))

    @callback(answer, tab="compare")
    def show(selection: Selection, name: str, plain: bool, again: bool, request: gr.Request) -> Updates:
        if not selection.run:
            return {panel: gr.update(visible=False)}
        run = page.services.runs.get(selection.run)
        if run.state != "succeeded" or is_import(run.spec):
            return {panel: gr.update(visible=False)}
        check_text_access(run, request)
        rows = page.services.exports.loading_table(run.id)
        return {
            panel: gr.update(visible=True),
            symmetric: gr.update(visible=name == "compressed-tensors"),
            nearest: gr.update(visible=name == "gguf"),
            answer: shown(selection, name, plain, again),
            where: _table(rows),
        }

    @callback(answer)
    def export(selection: Selection, name: str, plain: bool, again: bool, request: gr.Request) -> Iterator[Updates]:
        """Export in a thread and report progress."""
        from abq_core.export.formats import Options

        check_text_access(page.services.runs.get(selection.run), request)
        yield {answer: html.render("lines.html", lines=[f"Loading the model{html.ELLIPSIS}"])}

        def work(report: Callable[[tuple[int, int]], None]) -> None:
            options = Options.read(**_options(name, plain, again))
            page.services.exports.keep(selection.run, name, options, lambda done, total: report((done, total)))

        for done, total in Steps[tuple[int, int]](work):
            part = "Writing, then loading it in its runtimes" if done < total else "Done"
            yield {answer: html.render("lines.html", lines=[f"{part}{html.ELLIPSIS} {100 * done // total} %"])}
        yield {answer: shown(selection, name, plain, again)}

    gr.on(
        [page.turn("compare"), *(one.input for one in asked)],
        show,
        [page.selection, *asked],
        [panel, symmetric, nearest, answer, where],
        **FOLLOW,
    )
    exporting = start.click(export, [page.selection, *asked], answer, **BUSY)
    stop.click(lambda: html.render("lines.html", lines=["Stopped."]), None, answer, cancels=[exporting], **PRIVATE)


def _options(name: str, symmetric: bool, nearest: bool) -> dict[str, Any]:
    """The arguments of Options that a format has, from the boxes."""
    if name == "compressed-tensors" and symmetric:
        return {"activations": "symmetric"}
    return {"nearest": True} if name == "gguf" and nearest else {}


def _answer(run: str, name: str, kept: dict[str, Any] | None, options: Mapping[str, Any]) -> Markup:
    """What is known of one format: the kept export with its proofs, or how to make one."""
    from abq_core.export.formats import format_named
    from abq_core.export.model_card import proof_sentence
    from abq_core.export.proof import Proof

    words = [word for key, value in options.items() for word in (f"--{key}", value) if word is not True]
    command = shlex.join(["abq", "export", run, "--to", name, *words, "--out", f"{run}-{name}"])
    # What was kept by an older version has one proof.
    proofs = [kept["proof"], *kept.get("more_proofs", [])] if kept else []
    return html.render(
        "export_answer.html",
        run=run,
        format=name,
        help=format_named(name).help,
        kept=kept,
        sentences=[proof_sentence(Proof(**proof)) for proof in proofs],
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
