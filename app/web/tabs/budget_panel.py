"""Bits under a budget: a precision for every linear by how much each minds, and how such predictions came true."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import gradio as gr
import pandas as pd

from abq_core.spec import METHODS, CalibrationSpec
from app import formatting
from app.figures.allocation import allocation_figure, prediction_figure
from app.web.tabs import words
from app.web.tabs.guard import EXPECTED, guarded
from app.web.tabs.jobs_panel import PRIVATE
from app.web.tabs.page import PRECISIONS, Page
from app.web.tabs.picture import build_picture, framed
from app.web.tabs.selection import Selection
from app.web.tabs.steps import Steps

CANDIDATES = ["W2A8", "W2*A8", "W3A8", "W4A8"]
FILE = "mix.json"
CHOSEN = (
    "Look for the dark cells: these linears mind low bits most, so they get more of them. "
    "Hover for how far each is from full precision by itself."
)
PREDICTED = (
    "Look at the dotted line: on it the sum over the linears came true. Rounded runs lie near it; below it is what "
    "calibration took back. A rim is a mix. The prediction leaves out the KV cache."
)
EMPTY = words.empty(
    "No precision has been chosen for the linears yet",
    "One linear at a time is quantized to each candidate, and its distance to full precision measured; then each gets "
    "the bits with which the sum of the distances is smallest. It takes about a minute, once a candidate.",
)


@dataclass(frozen=True)
class Chosen:
    """What the last choice was, as the page keeps it: the model, what Allocation.to_dict gives, its rows."""

    model: str
    content: dict[str, object]
    linears: pd.DataFrame

    def to_json(self) -> str:
        rows = self.linears.to_dict("list")
        return json.dumps({"model": self.model, "content": self.content, "linears": rows})

    @classmethod
    def of(cls, text: str, model: str) -> "Chosen | None":
        """Read `to_json`; None where nothing was chosen for this model."""
        data = json.loads(text) if text else None
        if data is None or data["model"] != model:
            return None
        return cls(model, data["content"], pd.DataFrame(data["linears"]))


def build_budget_panel(page: Page, visible: bool) -> gr.Row:
    """Budget and candidates on the left; the choice as a map, and predictions against measurements, on the right."""
    with gr.Row(elem_classes="abq-tab", visible=visible) as row:
        with gr.Column(elem_classes="abq-choices"):
            bits = gr.Slider(1, 8, value=2.5, step=0.05, label="Stored bits a weight, at most", elem_id="budget-bits")
            candidates = gr.Dropdown(
                PRECISIONS, value=CANDIDATES, multiselect=True, allow_custom_value=True,
                label="Candidates for each linear", elem_id="budget-candidates",
            )  # fmt: skip
            choose = gr.Button("Choose the bits", variant="primary", elem_id="budget-choose")
            stop = gr.Button("Stop", elem_id="budget-stop")
            method = gr.Radio(list(METHODS), value="abq", label="Method for the mix", elem_id="budget-method")
            calibrate = gr.Button("Calibrate this mix", interactive=False, elem_id="budget-calibrate")
            command = gr.HTML("", js_on_load=None, elem_id="budget-command")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(words.answer("&nbsp;"), elem_id="budget-answer", js_on_load=None)
            empty = gr.HTML(EMPTY, js_on_load=None)
            figure = build_picture("budget-figure")
            predictions = build_picture("budget-predictions")
    kept = gr.State("")
    outputs = [answer, empty, figure, predictions, calibrate, command]
    form = [page.selection, kept, bits, candidates, method]

    @guarded(len(outputs))
    def show(text: str, kept: str, bits: float, candidates: list[str], method: str) -> list[object]:
        selection = Selection.from_json(text)
        if selection.tab != "compare":
            return [gr.skip()] * len(outputs)
        chosen = Chosen.of(kept, selection.model)
        runs = page.services.allocation.predictions(selection.model)
        query = urlencode({"model": selection.model})
        return [
            words.answer("&nbsp;" if chosen is None else _answer(chosen)),
            gr.update(visible=chosen is None),
            "" if chosen is None else framed(allocation_figure(chosen.linears, selection.dark), CHOSEN, name="bits"),
            framed(prediction_figure(runs, selection.dark), PREDICTED, f"abq/predictions.csv?{query}", "predictions")
            if len(runs)
            else "",
            gr.update(interactive=chosen is not None),
            words.command(_command(selection.model, bits, candidates, method)),
        ]

    def measure(text: str, kept: str, bits: float, candidates: list[str], method: str) -> Iterator[list[object]]:
        """Measure and choose, saying how far it is."""
        selection, rest = Selection.from_json(text), [gr.skip()] * len(outputs)
        try:
            yield [words.answer("Reading the model&hellip;"), *rest]
            found = None
            work = Steps[object](
                lambda report: report(
                    page.services.allocation.allocate(
                        selection.model, candidates or [], _number(bits), on_step=lambda *step: report(step)
                    )
                )
            )
            for step in work:
                if isinstance(step, tuple):
                    done, total = step
                    said = f"Quantizing one linear at a time: {done} of {total} measured&hellip;"
                    yield [words.answer(said), *rest]
                else:
                    found = step
            now = Chosen(selection.model, found.to_dict(), found.frame()).to_json()
            yield [*show(text, now, bits, candidates, method), now]
        except EXPECTED as error:
            yield [words.problem(error), *rest]

    @guarded(2)
    def start(text: str, kept: str, bits: float, candidates: list[str], method: str) -> list[object]:
        selection = Selection.from_json(text)
        chosen = Chosen.of(kept, selection.model)
        if chosen is None:
            raise ValueError("Nothing is chosen yet: press Choose the bits.")
        spec = CalibrationSpec(
            selection.model,
            page.services.models.precision(json.dumps(chosen.content)),
            method,
            device=page.services.settings.device,
        )
        page.limits.check_queue()
        job = page.services.jobs.submit(spec)
        return [words.answer(f"Queued as run <b>{words.escape(job.run_id)}</b>."), gr.Tabs(selected="calibrate")]

    page.selection.change(show, form, outputs, **PRIVATE)
    gr.on(
        [bits.change, candidates.change, method.change],
        lambda text, *values: words.command(_command(Selection.from_json(text).model, *values)),
        [page.selection, bits, candidates, method], command, trigger_mode="always_last", **PRIVATE,
    )  # fmt: skip
    measuring = choose.click(measure, form, [*outputs, kept], concurrency_limit=1, concurrency_id="model", **PRIVATE)
    stop.click(lambda: words.answer("Stopped."), None, answer, cancels=[measuring], **PRIVATE)
    calibrate.click(start, form, [answer, page.tabs], **PRIVATE)
    return row


def _number(bits: object) -> float:
    number = formatting.number(bits)
    if number is None:
        raise ValueError("The budget is empty: give a number of bits, such as 2.5.")
    return number


def _answer(chosen: Chosen) -> str:
    """The choice in words, beside the candidates used for all linears alike."""
    content = chosen.content
    alike = ", ".join(f"{words.escape(name)} {formatting.nats(kl)}" for name, kl in content["uniform_kl"].items())
    return (
        f"<b>{words.escape(str(content['precision']))}</b>: {formatting.bits(content['stored_bits'])} "
        f"{words.term('stored bits')} a weight ({formatting.bits(content['information_bits'])} "
        f"{words.term('information bits', 'of information')}), {formatting.size(content['weight_bytes'])}. Predicted "
        f"{words.term('KL')} <b>{formatting.nats(content['predicted_kl'])}</b>; one precision for all linears: {alike}."
    )


def _command(model: str, bits: float | None, candidates: list[str] | None, method: str) -> str:
    named = ",".join(candidates or [])
    choose = [
        "abq",
        "allocate",
        model,
        "--bits",
        f"{formatting.number(bits) or 0:g}",
        "--candidates",
        named,
        "--out",
        FILE,
    ]
    calibrate = ["abq", "calibrate", model, "--precision", FILE, "--method", str(method)]
    return f"{shlex.join(choose)}\n{shlex.join(calibrate)}"
