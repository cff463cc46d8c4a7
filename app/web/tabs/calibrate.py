"""Calibrate: make it as good as it can be. The form with its preflight; jobs_panel shows what becomes of it."""

import gradio as gr

from abq_core.methods import METHOD_TABLE, METHODS
from abq_core.spec import DEFAULT_END_TO_END_SEGMENTS, CalibrationSpec, SpecError
from abq_core.text.sources import NAMES
from app import formatting
from app.web.tabs import switches, words
from app.web.tabs.guard import guarded
from app.web.tabs.jobs_panel import PRIVATE, build_jobs_panel
from app.web.tabs.page import Page
from app.web.tabs.selection import Selection

LOSSES, GRIDS = ["DLC", "AKL", "MSE"], ["Hadamard transform", "half-step zero points"]
TERMS = ["balance vectors", "clipping", "compensation", *LOSSES, *GRIDS]
GLOSSARY = f'<p class="abq-glossary">What is {", ".join(words.term(name) for name in TERMS)}?</p>'


def build_calibrate_tab(page: Page) -> None:
    """Form on the left; preflight, queue and one job's progress on the right."""
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            method = gr.Radio(
                list(METHODS), value="abq", label="Method", info=METHOD_TABLE["abq"].help, elem_id="calibrate-method"
            )
            boxes = gr.CheckboxGroup(
                switches.CHOICES, value=switches.to_boxes(METHODS["abq"]), label="Components", info=_components("abq"),
                elem_id="calibrate-switches",
            )  # fmt: skip
            gr.HTML(GLOSSARY, js_on_load=None)
            data = gr.Dropdown(
                list(NAMES), value="builtin", allow_custom_value=True, elem_id="calibrate-data",
                label="Text: one of these, or a file", info="A file is .txt or .jsonl on this machine.",
            )  # fmt: skip
            with gr.Row():
                segments = _number("Segments", 32, "calibrate-segments")
                seq_len = _number("Tokens each", 256, "calibrate-seq-len")
            with gr.Row():
                epochs = _number("Epochs", METHOD_TABLE["abq"].epochs, "calibrate-epochs")
                seed = _number("Seed", 0, "calibrate-seed")
            pass_segments = gr.Number(
                DEFAULT_END_TO_END_SEGMENTS, label="Segments of the end-to-end pass", precision=0, visible=False,
                elem_id="calibrate-pass-segments", info="Each is read once.",
            )  # fmt: skip
            submit = gr.Button("Calibrate", variant="primary", elem_id="calibrate-submit")
            command = gr.HTML("", js_on_load=None, elem_id="calibrate-command")
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(words.answer("&nbsp;"), elem_id="calibrate-answer", js_on_load=None)
            panel = build_jobs_panel(page, answer)
    widgets = [method, boxes, data, segments, seq_len, epochs, seed, pass_segments]

    @guarded(2)
    def preflight(text: str, *values: object) -> list[object]:
        selection = Selection.from_json(text)
        if selection.tab != "calibrate":
            return [gr.skip(), gr.skip()]
        spec = _spec(page, selection, *values)
        return [words.answer(_preflight(page, spec)), words.command(spec.command_line())]

    @guarded(2 + len(page.header.outputs))
    def start(text: str, *values: object) -> list[object]:
        page.limits.check_queue()
        job = page.services.jobs.submit(_spec(page, Selection.from_json(text), *values))
        queued = (
            f"Queued as run <b>{words.escape(job.run_id)}</b>. You may close this page; the work goes on without it."
        )
        return [words.answer(queued), str(job.id), *page.header.follow(text, str(job.spec["model"]))]

    def choose_method(method: str) -> list[object]:
        boxes = gr.update(value=switches.to_boxes(METHODS[method]), info=_components(method))
        shown = gr.update(visible=METHODS[method].end_to_end)
        return [gr.update(info=METHOD_TABLE[method].help), boxes, gr.update(value=_default_epochs(method)), shown]

    def choose_boxes(method: str, boxes: list[str]) -> list[object]:
        return [gr.update(info=_components(method, boxes)), gr.update(visible=switches.END_TO_END in boxes)]

    form = [page.selection, *widgets]
    asked = {"fn": preflight, "inputs": form, "outputs": [answer, command], **PRIVATE}
    # what a method sets is looked at once, when all of it is set: one look for each change would answer in any order
    edited = [widget.input for widget in widgets if widget is not method]
    gr.on([page.selection.change, *edited], trigger_mode="always_last", **asked)
    method.input(choose_method, method, [method, boxes, epochs, pass_segments], **PRIVATE).then(**asked)
    boxes.input(choose_boxes, [method, boxes], [boxes, pass_segments], **PRIVATE)
    submit.click(start, form, [answer, panel.chosen, *page.header.outputs], **PRIVATE).then(*panel.refresh, **PRIVATE)


def _number(label: str, value: int, elem_id: str) -> gr.Number:
    return gr.Number(value, label=label, precision=0, min_width=80, elem_id=elem_id)


def _spec(page: Page, selection: Selection, *values: object) -> CalibrationSpec:
    """The form as a spec. Raises SpecError, PrecisionError."""
    method, boxes, data, segments, seq_len, epochs, seed, pass_segments = values
    components = switches.from_boxes(boxes if isinstance(boxes, list) else [])
    return CalibrationSpec(
        model=selection.model,
        precision=page.services.models.precision(selection.precision),
        method=str(method),
        switches=components,
        data=str(data or "").strip(),
        segments=_whole(segments, "Segments"),
        seq_len=_whole(seq_len, "Tokens each"),
        epochs=None if epochs in (None, _default_epochs(str(method))) else _whole(epochs, "Epochs"),
        end_to_end_segments=_whole(pass_segments, "Segments of the end-to-end pass") if components.end_to_end else None,
        seed=_whole(seed, "Seed"),
        device=page.services.settings.device,
    )


def _default_epochs(method: str) -> int:
    """Epochs that the form shows for a method; 0 stands for the default of one that learns nothing by itself."""
    return METHOD_TABLE[method].epochs if METHODS[method].learns else 0


def _components(method: str, boxes: list[str] | None = None) -> str:
    """The sentence under the boxes: the default components of the method, or the changes from them."""
    changed = "" if boxes is None else switches.changed_boxes(boxes, method)
    return f"Changed from {method}: {changed}." if changed else f"Default components of {method}."


def _whole(value: object, name: str) -> int:
    number = formatting.number(value)
    if number is None:
        raise SpecError(f"{name} is empty: type a whole number.")
    return int(number)


def _preflight(page: Page, spec: CalibrationSpec) -> str:
    """What the calibration would take, from shapes alone."""
    estimate = page.services.models.estimate_calibration(spec)
    learned = (
        f"{spec.active_epochs} epoch{'s' * (spec.active_epochs > 1)} a block"
        if spec.active_epochs
        else "nothing is learned"
    )
    how_long = f"roughly <b>{formatting.seconds(estimate.seconds)}</b> on one core, " if spec.device == "cpu" else ""
    of_device = (
        f", {formatting.size(estimate.device_memory_bytes)} of the GPU's" if estimate.device_memory_bytes else ""
    )
    return (
        f"<b>{words.escape(str(spec.precision))}</b> with <b>{spec.method}</b>: {learned}, "
        f"{how_long}"
        f"about {formatting.size(estimate.peak_memory_bytes)} of memory{of_device} "
        f"and {formatting.size(estimate.run_bytes)} on the disk; "
        f"the weights go from {formatting.size(estimate.full_bytes)} to {formatting.size(estimate.quantized_bytes)}."
    )
