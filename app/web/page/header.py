"""The header of the page: model, precision and run, shared by all tabs.

The address bar holds the selection.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import gradio as gr
import pandas as pd
from markupsafe import Markup

from abq_core.mix import is_mix_name, precision_name
from abq_core.models.errors import ModelError
from abq_core.precision import Precision, PrecisionError
from app.services import Services
from app.services.errors import ServiceError
from app.web import html
from app.web.page.callbacks import PRIVATE, Updates, callback, event
from app.web.page.script import PAGE_SCRIPT, READY
from app.web.page.selection import Selection, readable, run_choices
from app.web.questions import STEPS

PRECISIONS = [
    "W8A8",
    "W6A6",
    "W4A8",
    "W4A4",
    "W3A8",
    "W2*A8",
    "W2A8",
    "W4A16",
    "W2*A16",
    "W4A4g128",
    "W6A6kv8",
    "W4A8h8e8",
]
WATCH_SECONDS = 3
NO_RUN = ("No run selected", "")


class Header:
    """The header's widgets. `wire` connects them once the tabs exist."""

    def __init__(self, services: Services) -> None:
        self.services = services
        with gr.Row(elem_id="abq-header"):
            gr.HTML(html.render("brand.html"), elem_id="abq-brand", js_on_load=None)
            self.model = gr.Dropdown(
                ["builtin"], value="builtin", label="Model: builtin, folder, .gguf or hub id",
                allow_custom_value=True, elem_id="abq-model", scale=3,
            )  # fmt: skip
            self.precision = gr.Dropdown(
                PRECISIONS, value=Selection.precision, label="Precision", allow_custom_value=True,
                elem_id="abq-precision", scale=2,
            )  # fmt: skip
            self.run = gr.Dropdown([NO_RUN], value="", label="Run", elem_id="abq-run", scale=3)
            self.bits = gr.HTML("", elem_id="abq-bits", js_on_load=None, scale=2, min_width=190)
        gr.HTML(
            html.render("steps.html", steps=STEPS), head=PAGE_SCRIPT, js_on_load="window.abq.steps(element)",
            apply_default_css=False, elem_id="abq-steps",
        )  # fmt: skip
        self.selection = gr.Textbox("", elem_id="abq-selection", elem_classes="abq-hidden")
        self._turns = gr.Column(elem_classes="abq-hidden")
        self.offer = gr.Textbox("", elem_id="abq-offer", elem_classes="abq-hidden")
        self.known = gr.State(None)  # the finished runs that the page knows
        self.go = gr.Button("go", elem_id="abq-go", elem_classes="abq-hidden")
        self.dark_changed = gr.Button("dark changed", elem_id="abq-dark-changed", elem_classes="abq-hidden")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The components that `show` and `follow` update."""
        return [self.selection, self.model, self.precision, self.run, self.bits]

    def turn(self, tab: str) -> Any:
        """An event of its own for one function: the tab was opened, or the selection has changed while it is open.

        tab: or a name that a script on the page presses, `window.abq.turn(name)`.

        With two functions of `trigger_mode="always_last"` Gradio could repeat an event without end: a function that had
        to wait makes it repeat all functions of the event.
        """
        with self._turns:
            return gr.Button(tab, elem_classes=f"abq-turn-{tab}").click

    def show(self, selection: Selection) -> Updates:
        """Show this selection."""
        choices = self._run_choices(selection, self.services.runs.newest_frame())
        others = [precision for precision in PRECISIONS if precision != selection.precision]
        return {
            self.selection: selection.to_json(),
            self.model: gr.update(choices=self._model_choices(selection), value=selection.model),
            self.precision: gr.update(choices=[selection.precision, *others], value=selection.precision),
            self.run: gr.update(
                choices=choices, value=selection.run if selection.run in dict(choices).values() else ""
            ),
            self.bits: self._bits(selection.precision),
        }

    def show_settled(self, selection: Selection) -> Updates:
        """Show this selection made consistent with the finished runs. Raises PrecisionError."""
        return self.show(selection.settled(self.services.runs.newest_frame()))

    def follow(self, selection: Selection, model: str) -> Updates:
        """Show the model of a submitted job: its hub id may have been pinned to a commit."""
        if model == selection.model:
            return {}
        return self.show_settled(replace(selection, model=model, run=""))

    def wire(self, blocks: gr.Blocks, tabs: gr.Tabs, items: Sequence[gr.Tab]) -> None:
        """Keep the header, the tabs and the address bar in step. items: the tabs in `tabs`."""

        @callback()
        def open_page(selection: Selection) -> Updates:
            if not readable(selection.precision):
                gr.Warning(f"The precision in the address cannot be read; showing {Selection.precision} instead.")
                selection = replace(selection, precision=Selection.precision)
            known = self._finished_runs(self.services.runs.newest_frame())
            return {**self._show_possible(selection), tabs: gr.Tabs(selected=selection.tab), self.known: known}

        blocks.load(
            open_page,
            self.selection,
            [*self.outputs, tabs, self.known],
            js=f"async () => {{ {READY} return window.abq.fromAddress(); }}",
            **PRIVATE,
        )
        self.go.click(  # a link within the page has changed the address
            open_page, self.selection, [*self.outputs, tabs, self.known], js="() => window.abq.fromAddress()", **PRIVATE
        )
        self.selection.change(None, self.selection, None, js="(text) => window.abq.toAddress(text)", **PRIVATE)
        self.dark_changed.click(
            None, self.selection, self.selection,
            js="(text) => window.abq.withChange(text, {dark: window.abq.isDark()})", **PRIVATE,
        )  # fmt: skip
        for item in items:
            item.select(
                None, self.selection, self.selection,
                js=f"(text) => window.abq.withChange(text, {{tab: '{item.id}'}})", **PRIVATE,
            )  # fmt: skip
        self._wire_choices()
        self._wire_finished_runs()

    def _wire_choices(self) -> None:
        @callback()
        def choose_model(selection: Selection, model: str | None) -> Updates:
            chosen = replace(selection, model=(model or "").strip() or Selection.model, run="")
            return self._show_possible(chosen)

        @callback()
        def choose_precision(selection: Selection, precision: str | None) -> Updates:
            try:
                name = precision_name(precision or "")
                return self.show_settled(self._resolved(replace(selection, precision=name, run="")))
            except PrecisionError as error:
                gr.Warning(str(Markup.escape(str(error))))
                return self.show(selection)

        @callback()
        def choose_run(selection: Selection, run: str | None) -> Updates:
            if not run:
                return self.show(replace(selection, run=""))
            return self.show_settled(replace(selection, run=run))

        self.model.input(choose_model, [self.selection, self.model], self.outputs, **PRIVATE)
        self.precision.input(choose_precision, [self.selection, self.precision], self.outputs, **PRIVATE)
        self.run.input(choose_run, [self.selection, self.run], self.outputs, **PRIVATE)

    def _wire_finished_runs(self) -> None:
        @event
        def watch(text: str, before: str | None) -> Updates:
            """Offer new choices and the awaited run after a run finished or was deleted.

            The browser applies the offer only if the selection is still the same (page.js, applyOffer).
            """
            runs = self.services.runs.newest_frame()
            now = self._finished_runs(runs)
            if before is None or now == before:  # None: the page is still opening
                return gr.skip()
            selection = Selection.from_json(text)
            settled = selection.after(runs, before.split(","))
            offer = {
                "selection": asdict(selection),
                "run": settled.run,
                "runs": self._run_choices(settled, runs),
                "models": [(model, model) for model in self._model_choices(settled)],
            }
            return {self.known: now, self.offer: json.dumps(offer)}

        gr.Timer(WATCH_SECONDS).tick(watch, [self.selection, self.known], [self.known, self.offer], **PRIVATE)
        self.offer.change(
            None, [self.offer, self.selection], [self.selection, self.model, self.run],
            js="(offer, text) => window.abq.applyOffer(offer, text)", **PRIVATE,
        )  # fmt: skip

    def _show_possible(self, selection: Selection) -> Updates:
        """Show a selection, with the default precision if its own is not possible for its model."""
        try:
            return self.show_settled(self._resolved(selection))
        except PrecisionError as error:  # two numbers for tied tables
            gr.Warning(str(Markup.escape(f"{error} Showing {Selection.precision} instead.")))
            return self.show_settled(replace(selection, precision=Selection.precision))

    def _resolved(self, selection: Selection) -> Selection:
        """The selection with the bits of LM head and embedding that hold for its model, as in the names of its runs.

        Unchanged if the model cannot be read: the tabs say why. Raises PrecisionError for two numbers for tied tables.
        """
        if is_mix_name(selection.precision):
            return selection
        try:
            precision = self.services.models.resolved(selection.model, Precision.parse(selection.precision))
        except (ModelError, ServiceError):
            return selection
        return replace(selection, precision=str(precision))

    def _bits(self, precision: str) -> str:
        try:
            return html.render("bits.html", precision=self.services.models.precision(precision))
        except PrecisionError:  # the name of a mix whose runs are deleted: the tab shows the error
            return ""

    def _model_choices(self, selection: Selection) -> list[str]:
        return list(dict.fromkeys([*self.services.models.names(), selection.model]))

    @staticmethod
    def _finished_runs(runs: pd.DataFrame) -> str:
        return ",".join(value for _, value in run_choices(runs))

    @staticmethod
    def _run_choices(selection: Selection, runs: pd.DataFrame) -> list[tuple[str, str]]:
        return [NO_RUN, *run_choices(runs[runs["model"].eq(selection.model)])]
