"""The form of Compare that imports a model which another program quantized."""

from dataclasses import dataclass

import gradio as gr

from app.web import html
from app.web.access.login import account_of
from app.web.page.callbacks import PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.selection import Selection

ABOUT = (
    "A .gguf file, or a GPTQ, AutoRound or compressed-tensors folder or hub id, that was made from the model above. "
    "It is decoded and measured like a run."
)


@dataclass(frozen=True)
class ImportPanel:
    """The widgets."""

    source: gr.Textbox
    start: gr.Button

    def wire(self, page: Page, answer: gr.HTML) -> None:
        """Queue an import when the button is pressed, and show the queue."""

        @callback(answer)
        def start_import(selection: Selection, source: str | None, request: gr.Request) -> Updates:
            if not (source or "").strip():
                raise ValueError("No file is named: type the path of a .gguf file or a folder, or a hub id.")
            job = page.services.imports.submit(
                source or "", selection.model, account=account_of(request), max_queued=page.limits.max_queued
            )
            return {
                answer: html.answer(f"The import of {job.spec['precision']} is queued."),
                page.tabs: gr.Tabs(selected="calibrate"),
                **page.header.follow(selection, str(job.spec["model"])),
            }

        outputs = [answer, page.tabs, *page.header.outputs]
        gr.on([self.start.click, self.source.submit], start_import, [page.selection, self.source], outputs, **PRIVATE)


def build_import_panel() -> ImportPanel:
    """Build the form inside the current column."""
    with gr.Accordion("Import a quantized model", open=False, elem_id="compare-import"):
        source = gr.Textbox(
            label="File, folder or hub id", info=ABOUT, max_length=500, max_lines=1, elem_id="compare-import-source"
        )
        start = gr.Button("Import", elem_id="compare-import-start")
    return ImportPanel(source, start)
