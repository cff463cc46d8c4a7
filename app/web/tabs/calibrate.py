"""The Calibrate tab: the form with its preflight estimate. jobs_panel shows the jobs."""

from typing import Any, NamedTuple

import gradio as gr

from abq_core.methods import METHOD_TABLE, METHODS
from abq_core.spec import DEFAULT_END_TO_END_SEGMENTS, CalibrationSpec, SpecError
from app.formatting import number
from app.web import html
from app.web.access.login import account_of
from app.web.page.callbacks import PRIVATE, Updates, callback, event
from app.web.page.context import Page
from app.web.page.selection import Selection
from app.web.tabs.calibrate_form import switches
from app.web.tabs.calibrate_form.length import build_length, expectation, percent_of, wire_length
from app.web.tabs.calibrate_form.method_choice import (
    CHOICES,
    OWN,
    PRESET_HELP,
    PRESETS,
    STANDARD,
    cost_table,
    epochs_of,
)
from app.web.tabs.jobs_panel import build_jobs_panel
from app.web.tabs.own_texts import build_text_choice, wire_text_choice

GLOSSARY = [
    "balance vectors", "clipping", "compensation", "DLC", "AKL", "MSE", "Hadamard transform", "folded rotation",
    "half-step zero points",
]  # fmt: skip
PASS_SEGMENTS = "End-to-end segments"


class Form(NamedTuple):
    """The values of the form's widgets, in the order of the events' inputs."""

    method: str
    boxes: list[str]
    data: str | None
    segments: float | None
    seq_len: float | None
    epochs: float | None
    seed: float | None
    pass_segments: float | None


def build_calibrate_tab(page: Page) -> None:
    """Form on the left; estimate, queue and the selected job's progress on the right."""
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            method = gr.Radio(
                CHOICES, value="abq", label="Method", info=METHOD_TABLE["abq"].help, elem_id="calibrate-method"
            )
            gr.HTML(html.render("more_methods.html"), js_on_load=None)
            costs = gr.HTML("", js_on_load=None, elem_id="calibrate-costs")
            preset = gr.Radio(
                [*PRESETS, OWN], value=STANDARD, label="Text and length", info=PRESET_HELP, elem_id="calibrate-preset"
            )
            length = build_length()
            with gr.Accordion("Text, segments, epochs and seed", open=False, elem_id="calibrate-text") as text:
                text_choice = build_text_choice("calibrate", "Calibration text")
                data = text_choice.data
                with gr.Row():
                    segments = _whole_number("Segments", 32, "calibrate-segments")
                    seq_len = _whole_number("Tokens each", 256, "calibrate-seq-len")
                with gr.Row():
                    epochs = _whole_number("Epochs", METHOD_TABLE["abq"].epochs, "calibrate-epochs")
                    seed = _whole_number("Seed", 0, "calibrate-seed")
                pass_segments = gr.Number(
                    DEFAULT_END_TO_END_SEGMENTS, label=PASS_SEGMENTS, precision=0, visible=False,
                    elem_id="calibrate-pass-segments", info="The end-to-end pass reads each segment once.",
                )  # fmt: skip
            with gr.Accordion("Components", open=False, elem_id="calibrate-components") as components:
                boxes = gr.CheckboxGroup(
                    switches.CHOICES, value=switches.to_boxes(METHODS["abq"]), show_label=False, label="Components",
                    info=_components("abq"), elem_id="calibrate-switches",
                )  # fmt: skip
                gr.HTML(html.render("glossary.html", terms=GLOSSARY), js_on_load=None)
            submit = gr.Button("Calibrate", variant="primary", elem_id="calibrate-submit")
            command = gr.HTML("", js_on_load=None, elem_id="calibrate-command")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="calibrate-answer", js_on_load=None)
            panel = build_jobs_panel(page, answer)
    widgets = Form(method, boxes, data, segments, seq_len, epochs, seed, pass_segments)

    @callback(answer, tab="calibrate")
    def preflight(selection: Selection, *values: object) -> Updates:
        spec = _spec(page, selection, Form(*values))
        estimate = page.services.models.estimate_calibration(spec)
        said = html.render("calibrate_answer.html", spec=spec, estimate=estimate)
        return {
            answer: html.answer(said, "calibrate"),
            command: html.command(spec.command_line()),
            costs: cost_table(page, spec),
            length: gr.update(
                info=expectation(page, spec, estimate.expected_seconds), interactive=spec.active_switches.learns
            ),
        }

    @callback(answer)
    def start(selection: Selection, request: gr.Request, *values: object) -> Updates:
        spec = _spec(page, selection, Form(*values))
        job = page.services.jobs.submit(spec, account_of(request), page.limits.max_queued)
        queued = html.answer(html.render("queued.html", run=job.run_id))
        return {answer: queued, panel.chosen: str(job.id), **page.header.follow(selection, str(job.spec["model"]))}

    @event
    def choose_method(chosen: str, text_and_length: str) -> Updates:
        return {
            length: gr.update(value=percent_of(epochs_of(text_and_length, chosen), chosen)),
            method: gr.update(info=METHOD_TABLE[chosen].help),
            boxes: gr.update(value=switches.to_boxes(METHODS[chosen]), info=_components(chosen)),
            epochs: gr.update(value=epochs_of(text_and_length, chosen)),
            pass_segments: gr.update(visible=METHODS[chosen].end_to_end),
            components: gr.update(label="Components"),
        }

    @callback(answer)
    def choose_preset(selection: Selection, name: str, chosen: str) -> Updates:
        if name not in PRESETS:
            return {text: gr.update(open=True)}
        values = PRESETS[name]
        return {
            length: gr.update(value=percent_of(epochs_of(name, chosen), chosen)),
            data: gr.update(value=values.data),
            segments: gr.update(value=values.segments),
            seq_len: gr.update(value=min(values.seq_len, page.services.models.shape(selection.model).context)),
            epochs: gr.update(value=epochs_of(name, chosen)),
            pass_segments: gr.update(value=values.pass_segments),
        }

    @event
    def choose_boxes(chosen: str, ticked: list[str], name: str, count: float | None) -> Updates:
        info = _components(chosen, ticked)
        changed = bool(switches.changed_boxes(ticked, chosen))
        return {
            epochs: _epochs_for(ticked, name, chosen, count),
            boxes: gr.update(info=info),
            pass_segments: gr.update(visible=switches.END_TO_END in ticked),
            components: gr.update(label="Components (changed)", open=True)
            if changed
            else gr.update(label="Components"),
        }

    form = [page.selection, *widgets]
    check = {"fn": preflight, "inputs": form, "outputs": [answer, command, costs, length], **PRIVATE}
    # A method sets several widgets. One estimate follows when all of them are set: one per widget could arrive in any
    # order.
    edited = [widget.input for widget in widgets if widget is not method]
    gr.on([page.turn("calibrate"), *edited], trigger_mode="always_last", **check)
    method.input(
        choose_method, [method, preset], [method, boxes, length, epochs, pass_segments, components], **PRIVATE
    ).then(**check)
    boxes.input(choose_boxes, [method, boxes, preset, epochs], [boxes, epochs, pass_segments, components], **PRIVATE)
    preset.input(
        choose_preset, [page.selection, preset, method],
        [answer, data, length, segments, seq_len, epochs, pass_segments, text], **PRIVATE,
    ).then(**check)  # fmt: skip
    wire_length(length, method, epochs, pass_segments, preset).then(**check)
    typed = [widget.input for widget in (data, segments, seq_len, epochs, pass_segments)]
    gr.on(typed, lambda: OWN, None, preset, **PRIVATE)
    added = wire_text_choice(page, answer, text_choice, "calibrate")
    added.then(lambda: OWN, None, preset, **PRIVATE).then(**check)
    submit.click(start, form, [answer, panel.chosen, *page.header.outputs], **PRIVATE).then(*panel.refresh, **PRIVATE)


def _whole_number(label: str, value: int, elem_id: str) -> gr.Number:
    return gr.Number(value, label=label, precision=0, min_width=80, elem_id=elem_id)


def _epochs_for(boxes: list[str], preset: str, method: str, epochs: float | None) -> Any:
    """Epochs of a preset if something is learned now that has no epochs, or nothing any more; else what is there."""
    try:
        components = switches.from_boxes(boxes)
    except SpecError:  # no loss is ticked yet: the answer says so
        return gr.skip()
    return gr.skip() if bool(epochs) == components.learns else epochs_of(preset, method, components)


def _components(method: str, boxes: list[str] | None = None) -> str:
    """The sentence under the boxes: default components, or the changes from them."""
    changed = "" if boxes is None else switches.changed_boxes(boxes, method)
    return f"Changed from {method}: {changed}." if changed else f"Default components of {method}."


def _spec(page: Page, selection: Selection, form: Form) -> CalibrationSpec:
    """The form as a spec. Raises SpecError, PrecisionError."""
    method = str(form.method)
    components = switches.from_boxes(form.boxes or [])
    return CalibrationSpec(
        model=selection.model,
        precision=page.services.models.precision(selection.precision),
        method=method,
        switches=components,
        data=str(form.data or "").strip(),
        segments=_whole(form.segments, "Segments"),
        seq_len=_whole(form.seq_len, "Tokens each"),
        epochs=None
        if form.epochs in (None, epochs_of(STANDARD, method, components))
        else _whole(form.epochs, "Epochs"),
        end_to_end_segments=_whole(form.pass_segments, PASS_SEGMENTS) if components.end_to_end else None,
        seed=_whole(form.seed, "Seed"),
        device=page.services.settings.device,
    )


def _whole(value: object, name: str) -> int:
    read = number(value)
    if read is None:
        raise SpecError(f"{name} is empty: type a whole number.")
    return round(read)
