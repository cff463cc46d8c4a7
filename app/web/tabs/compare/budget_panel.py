"""Bits under a budget: precision per linear layer from sensitivities, and predictions."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import gradio as gr
import pandas as pd

from abq_core.methods import METHODS
from abq_core.spec import CalibrationSpec
from app.figures.allocation import allocation_figure, prediction_figure
from app.formatting import MISSING, bits, nats, number
from app.services.mix_checks import MixCheck
from app.web import html
from app.web.access.login import account_of
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.header import PRECISIONS
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.steps import Steps
from app.web.page.table import Cell, Heading, build_table, sort_number, table

if TYPE_CHECKING:
    from abq_core.planning.allocate import Allocation

CANDIDATES = ["W2A8", "W2*A8", "W3A8", "W4A8"]
LINEARS, MODEL = "the linear layers", "the whole model, with embedding and LM head"
LIMITS = {LINEARS: "Stored bits per weight, at most", MODEL: "Bits per parameter, at most"}
FILE = "mix.json"
CHOSEN = (
    "Look for the dark cells: these linear layers are most sensitive to low bits, so they get more of them. Hover for "
    "the KL divergence when only that layer is quantized."
)
PREDICTED = (
    "Look at the dotted line: on it the prediction, the sum over the linear layers, equals the measurement. Rounded "
    "runs lie near it; calibration moves runs below it. An outline marks a mix. The prediction ignores the KV cache."
)
MIX_CAPTION = (
    "Mixes after calibration, compared with the best uniform precision that is no larger and has no more bit operations"
)
MIX_HEADINGS = [
    Heading("mix"),
    Heading("method", optional=2),
    Heading("bits/parameter", numeric=True),
    Heading("KL", numeric=True),
    Heading("uniform precision"),
    Heading("its bits/parameter", numeric=True, optional=1),
    Heading("its KL", numeric=True),
    Heading("verdict", wraps=True),
]
EMPTY = (
    "No mix of precisions yet",
    "Each linear layer is quantized by itself to each candidate, and the KL divergence from full precision is "
    "measured. Then the layers get the bits that minimize the sum. Measurements are kept.",
)


@dataclass(frozen=True)
class Mix:
    """The last allocation: its model, `Allocation.to_dict()` and `Allocation.frame()`."""

    model: str
    content: dict[str, object]
    linears: pd.DataFrame

    def to_json(self) -> str:
        """The mix as JSON text, which `from_json` reads."""
        rows = self.linears.to_dict("list")
        return json.dumps({"model": self.model, "content": self.content, "linears": rows})

    @classmethod
    def from_json(cls, text: str, model: str) -> "Mix | None":
        """Read `to_json`; None for "" or an allocation of another model."""
        data = json.loads(text) if text else None
        if data is None or data["model"] != model:
            return None
        return cls(model, data["content"], pd.DataFrame(data["linears"]))


class _Form(NamedTuple):
    """The widgets on the left. limit: of `scope`.  operations: bit operations per weight, 0 for no limit."""

    scope: gr.Radio
    limit: gr.Slider
    candidates: gr.Dropdown
    operations: gr.Number
    choose: gr.Button
    stop: gr.Button
    method: gr.Radio
    calibrate: gr.Button
    command: gr.HTML

    @property
    def budget(self) -> list[Any]:
        """The inputs of a request."""
        return [self.scope, self.limit, self.candidates, self.operations]


def _build_form() -> _Form:
    scope = gr.Radio(list(LIMITS), value=LINEARS, label="Budget of", elem_id="budget-scope")
    limit = gr.Slider(1, 8, value=2.5, step=0.05, label=LIMITS[LINEARS], elem_id="budget-bits")
    candidates = gr.Dropdown(
        PRECISIONS, value=CANDIDATES, multiselect=True, allow_custom_value=True,
        label="Candidates for each linear layer", elem_id="budget-candidates",
    )  # fmt: skip
    operations = gr.Number(
        0, label="Bit operations per weight, at most", elem_id="budget-operations",
        info="Stored bits times activation bits. 0: no limit.",
    )  # fmt: skip
    choose = gr.Button("Choose the bits", variant="primary", elem_id="budget-choose")
    stop = gr.Button("Stop", elem_id="budget-stop")
    method = gr.Radio(list(METHODS), value="abq", label="Method for the mix", elem_id="budget-method")
    calibrate = gr.Button("Calibrate this mix", interactive=False, elem_id="budget-calibrate")
    command = gr.HTML("", js_on_load=None, elem_id="budget-command")
    return _Form(scope, limit, candidates, operations, choose, stop, method, calibrate, command)


def build_budget_panel(page: Page, visible: bool) -> gr.Row:
    """Build the panel: budget and candidates left, the mix and its predictions right.

    The mix is a map; predictions are compared with measurements.
    """
    with gr.Row(elem_classes="abq-tab", visible=visible) as row:
        with gr.Column(elem_classes="abq-choices"):
            form = _build_form()
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="budget-answer", js_on_load=None)
            empty = gr.HTML(html.empty(*EMPTY), js_on_load=None)
            figure = build_picture("budget-figure")
            predictions = build_picture("budget-predictions")
            mixes = build_table("budget-mixes")
    stored = gr.State("")  # the last mix as JSON

    def shown(selection: Selection, mix: Mix | None) -> Updates:
        runs = page.services.allocation.predictions(selection.model)
        csv = f"abq/predictions.csv?{urlencode({'model': selection.model})}"
        predicted = prediction_figure(runs, selection.dark)
        return {
            answer: html.answer(html.BLANK if mix is None else html.render("budget_answer.html", mix=mix.content)),
            empty: gr.update(visible=mix is None),
            figure: "" if mix is None else framed(allocation_figure(mix.linears, selection.dark), CHOSEN, name="bits"),
            predictions: framed(predicted, PREDICTED, csv, "predictions") if len(runs) else "",
            mixes: mix_table(page.services.allocation.mix_checks(selection.model)),
            form.calibrate: gr.update(interactive=mix is not None),
        }

    @callback(answer, tab="compare")
    def show(selection: Selection, last: str) -> Updates:
        return shown(selection, Mix.from_json(last, selection.model))

    @callback(answer, tab="compare")
    def show_command(selection: Selection, *values: object) -> Updates:
        return {form.command: html.command(_command_lines(selection.model, *values))}

    @callback(answer)
    def measure(
        selection: Selection, of: str, most: float | None, names: list[str] | None, operations: float | None
    ) -> Iterator[Updates]:
        """Measure sensitivities, then allocate the bits, and report progress."""
        yield {answer: html.answer(f"Loading the model{html.ELLIPSIS}")}
        found, asked = None, (selection.model, names or [], _budget(most))
        allocate = _allocation_of(page, of)
        steps = Steps[object](
            lambda report: report(
                allocate(*asked, on_step=lambda *done: report(done), bit_operations=_limit(operations))
            )
        )
        for step in steps:
            if isinstance(step, tuple):
                said = f"Quantizing one linear layer at a time: {step[0]} of {step[1]} measured{html.ELLIPSIS}"
                yield {answer: html.answer(said)}
            else:
                found = step
        size = page.services.models.estimate(selection.model, found.precision).bits_per_parameter
        mix = Mix(selection.model, found.to_dict() | {"bits_per_parameter": size}, found.frame())
        yield {**shown(selection, mix), stored: mix.to_json()}

    @callback(answer)
    def start(selection: Selection, last: str, method: str, request: gr.Request) -> Updates:
        mix = Mix.from_json(last, selection.model)
        if mix is None:
            raise ValueError("There is no mix yet: press Choose the bits.")
        precision, device = page.services.models.precision(json.dumps(mix.content)), page.services.settings.device
        spec = CalibrationSpec(selection.model, precision, method, device=device)
        job = page.services.jobs.submit(spec, account_of(request), page.limits.max_queued)
        queued = html.answer(html.render("queued.html", run=job.run_id))
        return {answer: queued, page.tabs: gr.Tabs(selected="calibrate")}

    outputs = [answer, empty, figure, predictions, mixes, form.calibrate]
    asked = [*form.budget, form.method]
    form.scope.input(lambda of: gr.update(label=LIMITS.get(of, LIMITS[LINEARS])), form.scope, form.limit, **FOLLOW)
    page.turn("compare")(show, [page.selection, stored], outputs, **FOLLOW)
    edited = [page.turn("compare"), *(widget.change for widget in asked)]
    gr.on(edited, show_command, [page.selection, *asked], [answer, form.command], **FOLLOW)
    measuring = form.choose.click(measure, [page.selection, *form.budget], [*outputs, stored], **BUSY)
    form.stop.click(lambda: html.answer("Stopped."), None, answer, cancels=[measuring], **PRIVATE)
    form.calibrate.click(start, [page.selection, stored, form.method], [answer, page.tabs], **PRIVATE)
    return row


def mix_table(checks: Sequence[MixCheck]) -> str:
    """Each evaluated mix beside the best uniform precision of its size; "" without a mix."""
    rows = []
    for check in checks:
        mix, uniform = check.mix, check.uniform or {}
        cells = [
            Cell(str(mix["precision"])),
            Cell(str(mix["method"])),
            Cell(bits(mix["bits_per_parameter"]), sort_number(mix["bits_per_parameter"])),
            Cell(nats(mix["kl_mean"]), sort_number(mix["kl_mean"])),
            Cell(str(uniform.get("precision", MISSING))),
            Cell(bits(uniform.get("bits_per_parameter")), sort_number(uniform.get("bits_per_parameter"))),
            Cell(nats(uniform.get("kl_mean")), sort_number(uniform.get("kl_mean"))),
            Cell(check.verdict),
        ]
        rows.append((str(mix["run"]), cells))
    return table(MIX_HEADINGS, rows, MIX_CAPTION, selectable=False) if rows else ""


def _allocation_of(page: Page, scope: str) -> "Callable[..., Allocation]":
    """What allocates a budget of the linear layers or of the whole model."""
    service = page.services.allocation
    return service.allocate_model if scope == MODEL else service.allocate


def _budget(value: object) -> float:
    most = number(value)
    if most is None:
        raise ValueError("The budget is empty: enter a number of bits, such as 2.5.")
    return most


def _limit(operations: object) -> float | None:
    """None for 0, and for an empty field, which Gradio sends as 0."""
    return number(operations) or None


def _command_lines(
    model: str, of: str, limit: float | None, candidates: list[str] | None, operations: float | None, method: str
) -> list[str]:
    budget = ["--bits-per-parameter" if of == MODEL else "--bits", f"{number(limit) or 0:g}"]
    if (most := _limit(operations)) is not None:
        budget += ["--bit-operations", f"{most:g}"]
    choose = ["abq", "allocate", model, *budget, "--candidates", ",".join(candidates or []), "--out", FILE]
    calibrate = ["abq", "calibrate", model, "--precision", FILE, "--method", str(method)]
    return [shlex.join(choose), shlex.join(calibrate)]
