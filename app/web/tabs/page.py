"""The header line that stays in view: model, precision and run travel between the tabs and live in the address bar."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import gradio as gr
import pandas as pd

from abq_core.mix import ModelPrecision
from abq_core.precision import PrecisionError
from app import formatting
from app.services import Services
from app.web.limits import Limits
from app.web.tabs import words
from app.web.tabs.script import READY
from app.web.tabs.selection import Selection, readable, run_choices

PRECISIONS = ["W8A8", "W6A6", "W4A8", "W4A4", "W3A8", "W2*A8", "W2A8", "W4A16", "W2*A16", "W4A4g128", "W6A6kv8"]
WATCH_SECONDS = 3
NO_RUN = ("no run of this precision", "")
BRAND = '<h1 class="abq-brand"><span class="abq-lens" aria-hidden="true"><i></i><i></i><i></i></span>ABQ Explorer</h1>'


@dataclass(frozen=True)
class Page:
    """What every tab gets: services, the header with the selection (JSON, hidden), the tabs to go to, and limits."""

    services: Services
    header: "Header"
    tabs: gr.Tabs
    limits: Limits

    @property
    def selection(self) -> gr.Textbox:
        return self.header.selection


class Header:
    """The header's widgets. `wire` connects them once the tabs are there."""

    def __init__(self, services: Services) -> None:
        self.services = services
        with gr.Row(elem_id="abq-header"):
            gr.HTML(BRAND, elem_id="abq-brand", js_on_load=None)
            self.model = gr.Dropdown(
                ["builtin"], value="builtin", label="Model: builtin, a folder, or a hub id", allow_custom_value=True,
                elem_id="abq-model", scale=3,
            )  # fmt: skip
            self.precision = gr.Dropdown(
                PRECISIONS, value=Selection.precision, label="Precision", allow_custom_value=True,
                elem_id="abq-precision", scale=2,
            )  # fmt: skip
            self.run = gr.Dropdown([NO_RUN], value="", label="Run", elem_id="abq-run", scale=3)
            self.bits = gr.HTML("", elem_id="abq-bits", js_on_load=None, scale=2, min_width=190)
        self.selection = gr.Textbox("", elem_id="abq-selection", elem_classes="abq-hidden")
        self.offer = gr.Textbox("", elem_id="abq-offer", elem_classes="abq-hidden")
        self.dark_changed = gr.Button("dark changed", elem_id="abq-dark-changed", elem_classes="abq-hidden")

    @property
    def outputs(self) -> list[gr.components.Component]:
        return [self.selection, self.model, self.precision, self.run, self.bits]

    def follow(self, text: str, model: str) -> list[object]:
        """Updates for `outputs` after work was queued: a hub id became one with a commit, and the page goes with it."""
        selection = Selection.from_json(text)
        if model == selection.model:
            return [gr.skip()] * len(self.outputs)
        return self.show(replace(selection, model=model, run="").settled(self.services.runs.newest_frame()))

    def wire(self, blocks: gr.Blocks, page: Page, tabs: Sequence[gr.Tab]) -> None:
        """Let the header, the tabs and the address bar agree."""
        private = {"api_visibility": "private", "show_progress": "hidden"}
        blocks.load(
            self._open,
            self.selection,
            [*self.outputs, page.tabs],
            js=f"async () => {{ {READY} return window.abq.fromAddress(); }}",
            **private,
        )
        self.model.input(self._choose_model, [self.selection, self.model], self.outputs, **private)
        self.precision.input(self._choose_precision, [self.selection, self.precision], self.outputs, **private)
        self.run.input(self._choose_run, [self.selection, self.run], self.outputs, **private)
        page.selection.change(None, page.selection, None, js="(text) => window.abq.toAddress(text)", **private)
        self.dark_changed.click(
            None, self.selection, self.selection,
            js="(text) => window.abq.withChange(text, {dark: window.abq.isDark()})", **private,
        )  # fmt: skip
        finished = gr.State(None)
        gr.Timer(WATCH_SECONDS).tick(self._watch, [self.selection, finished], [finished, self.offer], **private)
        self.offer.change(
            None, [self.offer, self.selection], [self.selection, self.model, self.run],
            js="(offer, text) => window.abq.taken(offer, text)", **private,
        )  # fmt: skip
        for tab in tabs:
            tab.select(
                None, self.selection, self.selection,
                js=f"(text) => window.abq.withChange(text, {{tab: '{tab.id}'}})", **private,
            )  # fmt: skip

    def show(self, selection: Selection) -> list[object]:
        """Updates for `outputs`: the header as this selection has it."""
        choices = self._run_choices(selection, self.services.runs.newest_frame())
        known = [precision for precision in PRECISIONS if precision != selection.precision]
        return [
            selection.to_json(),
            gr.update(choices=self._model_choices(selection), value=selection.model),
            gr.update(choices=[selection.precision, *known], value=selection.precision),
            gr.update(choices=choices, value=selection.run if selection.run in dict(choices).values() else ""),
            self._bits(selection.precision),
        ]

    def _bits(self, precision: str) -> str:
        try:
            return bits_line(self.services.models.precision(precision))
        except PrecisionError:  # the name of a mix whose runs are deleted: the tab says so
            return ""

    def _open(self, text: str) -> list[object]:
        wanted = Selection.from_json(text)
        if not readable(wanted.precision):
            gr.Warning(f"The address asks for a precision that cannot be read; showing {Selection.precision} instead.")
            wanted = replace(wanted, precision=Selection.precision)
        return [*self.show(wanted.settled(self.services.runs.newest_frame())), gr.Tabs(selected=wanted.tab)]

    def _choose_model(self, text: str, model: str | None) -> list[object]:
        wanted = replace(Selection.from_json(text), model=(model or "").strip() or Selection.model, run="")
        return self.show(wanted.settled(self.services.runs.newest_frame()))

    def _choose_precision(self, text: str, precision: str | None) -> list[object]:
        before = Selection.from_json(text)
        try:
            return self.show(
                replace(before, precision=precision or "", run="").settled(self.services.runs.newest_frame())
            )
        except PrecisionError as error:
            gr.Warning(words.escape(str(error)))
            return self.show(before)

    def _choose_run(self, text: str, run: str | None) -> list[object]:
        before = Selection.from_json(text)
        if not run:
            return self.show(replace(before, run=""))
        return self.show(replace(before, run=run).settled(self.services.runs.newest_frame()))

    def _watch(self, text: str, before: str | None) -> list[object]:
        """When a run has finished or was deleted: what there is, and for a page that waits for a run, the run.

        It is an offer: something else may have been chosen on the page while it was made, and that stays.
        """
        runs = self.services.runs.newest_frame()
        now = ",".join(value for _, value in run_choices(runs))
        if now == before:
            return [gr.skip(), gr.skip()]
        if before is None or not text:
            return [now, gr.skip()]
        asked = Selection.from_json(text)
        found = asked.settled(runs)
        offer = {
            "asked": asdict(asked),
            "run": found.run,
            "runs": self._run_choices(found, runs),
            "models": [(model, model) for model in self._model_choices(found)],
        }
        return [now, json.dumps(offer)]

    def _model_choices(self, selection: Selection) -> list[str]:
        return list(dict.fromkeys([*self.services.models.names(), selection.model]))

    @staticmethod
    def _run_choices(selection: Selection, runs: pd.DataFrame) -> list[tuple[str, str]]:
        return [NO_RUN, *run_choices(runs[runs["model"].eq(selection.model)])]


def bits_line(precision: ModelPrecision) -> str:
    """Stored and information bits, which always stand next to a precision's name."""
    return (
        f'<p class="abq-bits"><b>{formatting.bits(precision.stored_bits)}</b> {words.term("stored bits")}<br>'
        f"<b>{formatting.bits(precision.information_bits)}</b> {words.term('information bits')} a weight</p>"
    )
