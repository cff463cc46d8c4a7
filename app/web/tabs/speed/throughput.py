"""The Throughput tab: the speed on this machine.

Kernels against other engines, roofline, whole-model decoding and where the time of one token goes.
"""

import shlex
from collections.abc import Iterator
from typing import NamedTuple

import gradio as gr
import pandas as pd

from app.figures.decode_profile import decode_profile_figure
from app.figures.throughput import decode_figure, roofline_figure, speedup_figure
from app.notation import parse_shapes, parse_token_counts
from app.services.speed.timings import this_device
from app.web import html
from app.web.page.callbacks import BUSY, FOLLOW, PRIVATE, Updates, callback
from app.web.page.context import Page
from app.web.page.header import PRECISIONS
from app.web.page.picture import build_picture, framed
from app.web.page.selection import Selection
from app.web.page.steps import Steps
from app.web.page.table import build_table
from app.web.tabs.speed.decode_profile import MISSING_PROFILE, Profile, latest_profile, profile_answer, profile_table
from app.web.tabs.speed.measurements import (
    chosen_kernels,
    decode_table,
    kernel_answer,
    kernel_table,
    latest_decodes,
    latest_kernels,
)
from kernels.benchmark.peers import PEERS, installed_peers

SPEEDUP, ROOFLINE, WHOLE_MODEL, ONE_TOKEN = "Speed-up", "Roofline", "Whole model", "One token"
PICTURES = [SPEEDUP, ROOFLINE, WHOLE_MODEL, ONE_TOKEN]
SHAPES = ["1024x1024", "4096x4096", "11008x4096", "4096x11008"]
CAPTIONS = {
    SPEEDUP: "Look at the dotted line: bars above it are faster than the named engine. All times include quantizing "
    "the activations; all engines took turns in one run.",
    ROOFLINE: "Look at the slope: it is the memory bandwidth measured in the same run. Points on it are bound by "
    "reading weights, so fewer stored bits mean more speed; points at a flat line are bound by arithmetic. The cache "
    "was cold.",
    WHOLE_MODEL: "Compare the tokens per second of one model, decoded end to end. All columns use real kernels; "
    "simulated quantization is never timed.",
    ONE_TOKEN: "Look at the gap between bar and mark: the mark is the time to read the same bytes from memory. A bar "
    "that ends at its mark cannot get faster without fewer bits.",
}
EMPTY = (
    "No timings on this machine yet",
    "This tab compares the packed engine with torch and other installed engines on the shapes you choose. Every result "
    "is checked against integer arithmetic before it is timed. Press Time the kernels, or choose the timings of "
    "another machine on the left.",
)


class Cases(NamedTuple):
    """The cases that the form names, in the order of the events' inputs."""

    precisions: list[str]
    shapes: list[str]
    m: list[str]


class Timings(NamedTuple):
    """The newest timings of one machine. pictured: in the figure.

    profile: of the selected run or precision, if there is one.  elsewhere: its name if it is not this one.
    """

    kernels: pd.DataFrame
    pictured: pd.DataFrame
    decodes: pd.DataFrame
    profile: Profile | None
    elsewhere: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return self.kernels.empty and self.decodes.empty and self.profile is None


class Widgets(NamedTuple):
    """The widgets of the tab."""

    picture: gr.Radio
    precisions: gr.Dropdown
    shapes: gr.Dropdown
    m: gr.Dropdown
    peers: gr.Dropdown
    threads: gr.Number
    time_kernels: gr.Button
    time_decode: gr.Button
    profile: gr.Button
    stop: gr.Button
    machine: gr.Dropdown
    command: gr.HTML
    answer: gr.HTML
    empty: gr.HTML
    figure: gr.HTML
    table: gr.HTML

    @property
    def cases(self) -> Cases:
        """The widgets that say what to time."""
        return Cases(self.precisions, self.shapes, self.m)

    @property
    def shown(self) -> list[gr.components.Component]:
        """The widgets that `_stored` updates."""
        return [self.answer, self.empty, self.figure, self.table, self.machine]


def build_throughput_tab(page: Page) -> None:
    """Build the tab: cases to time left, speed-ups with path and correctness mark right."""
    widgets = _build_widgets()
    _wire_stored_timings(page, widgets)
    _wire_benchmarks(page, widgets)


def _build_widgets() -> Widgets:
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            picture = gr.Radio(PICTURES, value=SPEEDUP, label="Figure", elem_id="throughput-picture")
            precisions = gr.Dropdown(
                PRECISIONS, value=["W2A8", "W2*A8", "W4A4", "W4A8"], multiselect=True, allow_custom_value=True,
                label="Precisions", elem_id="throughput-precisions",
            )  # fmt: skip
            shapes = gr.Dropdown(
                SHAPES, value=["4096x4096"], multiselect=True, allow_custom_value=True, label="Shapes N x K",
                elem_id="throughput-shapes",
            )  # fmt: skip
            m = gr.Dropdown(
                ["1", "8", "64"], value=["1"], multiselect=True, allow_custom_value=True, label="Tokens at once (M)",
                elem_id="throughput-m",
            )  # fmt: skip
            peers = gr.Dropdown(
                installed_peers(), value=["torch"], multiselect=True, label="Compare with", info=_absent_peers(),
                elem_id="throughput-peers",
            )  # fmt: skip
            threads = gr.Number(1, label="Threads", precision=0, minimum=1, elem_id="throughput-threads")
            time_kernels = gr.Button("Time the kernels", variant="primary", elem_id="throughput-kernels")
            time_decode = gr.Button("Time the whole model", elem_id="throughput-decode")
            profile = gr.Button("Profile one token", elem_id="throughput-profile")
            stop = gr.Button("Stop", elem_id="throughput-stop")
            machine = gr.Dropdown([], label="Timings of", visible=False, elem_id="throughput-machine")
            command = gr.HTML("", js_on_load=None)
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(html.answer(html.BLANK), elem_id="throughput-answer", js_on_load=None)
            empty = gr.HTML(html.empty(*EMPTY), js_on_load=None)
            figure = build_picture("throughput-figure")
            table = build_table("throughput-table")
    choices = (picture, precisions, shapes, m, peers, threads, time_kernels, time_decode, profile, stop)
    return Widgets(*choices, machine, command, answer, empty, figure, table)


def _wire_stored_timings(page: Page, widgets: Widgets) -> None:
    """Show stored timings and the equivalent command when the form or the selection changes."""

    @callback(widgets.answer, tab="throughput")
    def show(selection: Selection, name: str, device: str | None, *cases: list[str] | None) -> Updates:
        return _stored(page, widgets, selection, name, device, _cases(*cases))

    @callback(widgets.answer, tab="throughput")
    def show_command(_: Selection, *values: object) -> Updates:
        return {widgets.command: html.command(_command(*values))}

    choices = [widgets.picture, widgets.machine, *widgets.cases]
    form = [*widgets.cases, widgets.peers, widgets.threads]
    gr.on(
        [page.turn("throughput"), *(widget.input for widget in choices)],
        show, [page.selection, *choices], widgets.shown, **FOLLOW,
    )  # fmt: skip
    gr.on(
        [page.turn("throughput"), *(widget.change for widget in form)],
        show_command, [page.selection, *form], [widgets.answer, widgets.command], **FOLLOW,
    )  # fmt: skip


def _wire_benchmarks(page: Page, widgets: Widgets) -> None:
    """Time the kernels or the whole model, report progress, and show the result."""
    answer = widgets.answer

    @callback(answer)
    def measure(
        selection: Selection,
        name: str,
        precisions: list[str] | None,
        shapes: list[str] | None,
        m: list[str] | None,
        peers: list[str] | None,
        threads: float | None,
    ) -> Iterator[Updates]:
        cases = _cases(precisions, shapes, m)
        read, tokens, count = parse_shapes(cases.shapes), parse_token_counts(cases.m), int(threads or 1)
        yield {answer: html.answer(f"Checking every path against integer arithmetic before timing{html.ELLIPSIS}")}
        bench = page.services.throughput.time_kernels
        work = Steps(lambda report: bench(cases.precisions, read, tokens, count, report, peers or []))
        for done, last in enumerate(work, start=1):
            yield {answer: html.answer(f"Timed {done}; last: {last.precision} on {last.path}{html.ELLIPSIS}")}
        yield _stored(
            page, widgets, selection, SPEEDUP if name in (WHOLE_MODEL, ONE_TOKEN) else name, this_device(), cases
        )

    @callback(answer)
    def decode(selection: Selection, *cases: list[str] | None) -> Iterator[Updates]:
        columns = ["fp32", "bf16", "int8", *dict.fromkeys([selection.precision, "W2A8", "W4A4"])]
        columns += [selection.run] if selection.run and not page.services.registry.is_imported(selection.run) else []
        yield {answer: html.answer(f"Packing {len(columns)} columns{html.ELLIPSIS}")}
        bench = page.services.throughput.time_decode
        for done in Steps(lambda report: bench(columns, model=selection.model, on_token=report)):
            yield {answer: html.answer(f"Decoding {len(columns)} columns in turn: token {done}{html.ELLIPSIS}")}
        stored = _stored(page, widgets, selection, WHOLE_MODEL, this_device(), _cases(*cases))
        yield {**stored, widgets.picture: WHOLE_MODEL}

    @callback(answer)
    def profile(selection: Selection, *cases: list[str] | None) -> Iterator[Updates]:
        column = _column(selection)
        yield {answer: html.answer(f"Packing {column}{html.ELLIPSIS}")}
        bench = page.services.throughput.profile_decode
        for done in Steps(lambda report: bench([column], model=selection.model, on_token=lambda _, n: report(n))):
            yield {answer: html.answer(f"Decoding {column} without and with a clock: token {done}{html.ELLIPSIS}")}
        stored = _stored(page, widgets, selection, ONE_TOKEN, this_device(), _cases(*cases))
        yield {**stored, widgets.picture: ONE_TOKEN}

    form = [page.selection, widgets.picture, *widgets.cases, widgets.peers, widgets.threads]
    whole, shown = [page.selection, *widgets.cases], [*widgets.shown, widgets.picture]
    measuring = [
        widgets.time_kernels.click(measure, form, widgets.shown, **BUSY),
        widgets.time_decode.click(decode, whole, shown, **BUSY),
        widgets.profile.click(profile, whole, shown, **BUSY),
    ]
    stopped = html.answer("Stopped. Kernel timings that were complete are kept.")
    widgets.stop.click(lambda: stopped, None, answer, cancels=measuring, **PRIVATE)


def _stored(
    page: Page, widgets: Widgets, selection: Selection, picture: str, device: str | None, cases: Cases
) -> Updates:
    """Show the stored timings of a machine, by default of this one, or of another one until this one is timed."""
    stored = page.services.timings.frame(shipped=True)
    devices = list(dict.fromkeys([this_device(), *stored["machine"]]))
    timed = [device for device in devices if device in set(stored["machine"])]
    device = device if device in devices else (timed or devices)[0]
    choice = {widgets.machine: gr.update(choices=devices, value=device, visible=len(devices) > 1)}
    timings = _timings(stored[stored["machine"].eq(device)], selection, device, cases)
    if timings.is_empty:
        blank = {widgets.answer: html.answer(html.BLANK, "throughput"), widgets.figure: "", widgets.table: ""}
        return {**blank, widgets.empty: gr.update(visible=True), **choice}
    return {
        widgets.answer: html.answer(_answer(picture, timings), "throughput"),
        widgets.empty: gr.update(visible=False),
        widgets.figure: _framed(picture, timings, selection.dark),
        widgets.table: _table(picture, timings),
        **choice,
    }


def _cases(precisions: list[str] | None, shapes: list[str] | None, m: list[str] | None) -> Cases:
    return Cases(precisions or [], shapes or [], m or [])


def _column(selection: Selection) -> str:
    """What a profile is of: the selected run, otherwise the selected precision."""
    return selection.run or selection.precision


def _timings(measured: pd.DataFrame, selection: Selection, device: str, cases: Cases) -> Timings:
    elsewhere = "" if device == this_device() else device
    kernels = latest_kernels(measured)
    decodes = latest_decodes(measured, selection.model, bool(elsewhere))
    profile = latest_profile(measured, selection.model, _column(selection))
    return Timings(kernels, chosen_kernels(kernels, *cases), decodes, profile, elsewhere)


def _table(picture: str, timings: Timings) -> str:
    if picture == ONE_TOKEN:
        return "" if timings.profile is None else profile_table(timings.profile)
    return decode_table(timings.decodes) if picture == WHOLE_MODEL else kernel_table(timings.kernels)


def _framed(picture: str, timings: Timings, dark: bool) -> str:
    if picture == ONE_TOKEN:
        if timings.profile is None:
            return ""
        return framed(
            decode_profile_figure(timings.profile, dark), CAPTIONS[picture], "abq/throughput.csv", "decode-profile"
        )
    if picture == WHOLE_MODEL:
        return framed(decode_figure(timings.decodes, dark), CAPTIONS[picture], "abq/throughput.csv", "decode")
    draw = speedup_figure if picture == SPEEDUP else roofline_figure
    return framed(draw(timings.pictured, dark), CAPTIONS[picture], "abq/throughput.csv", "kernels")


def _answer(picture: str, timings: Timings) -> str:
    """One sentence about the figure, another machine if selected, and the cases shown."""
    timed, shown = len(timings.kernels), len(timings.pictured)
    if picture == ONE_TOKEN:
        timed = shown = 0
        sentence = MISSING_PROFILE if timings.profile is None else profile_answer(timings.profile)
    elif picture == WHOLE_MODEL:
        timed = shown = 0
        decodes = timings.decodes
        if decodes.empty:
            return "The whole model was not timed yet: press Time the whole model."
        best = decodes.loc[decodes["tokens_per_second"].idxmax()]
        sentence = html.render("decode_answer.html", best=best)
    else:
        sentence = kernel_answer(timings.pictured)
    return html.render("throughput_answer.html", sentence=sentence, machine=timings.elsewhere, shown=shown, timed=timed)


def _absent_peers() -> str | None:
    """Installation instructions for missing engines."""
    installed = installed_peers()
    absent = [name for name in PEERS if name not in installed]
    return f"For {' and '.join(absent)}: pip install 'abq-explorer[peers]'" if absent else None


def _command(precisions: list[str], shapes: list[str], m: list[str], peers: list[str], threads: float | None) -> str:
    options = {"precisions": precisions, "shapes": shapes, "m": m, "peers": peers}
    line = ["abq", "bench", "kernels", "--threads", str(int(threads or 1))]
    for name, values in options.items():
        line += [f"--{name}", ",".join(values or [])]
    return shlex.join(line)
