"""Throughput: what does it buy on this machine? Kernels beside other engines, the roofline, whole-model decoding."""

import shlex
from collections.abc import Iterator

import gradio as gr
import pandas as pd

from app import formatting
from app.figures.throughput import decode_figure, roofline_figure, speedup_figure
from app.services.timings import this_device
from app.web.tabs import words
from app.web.tabs.guard import EXPECTED, guarded
from app.web.tabs.jobs_panel import PRIVATE
from app.web.tabs.measurements import (
    chosen_kernels,
    decode_table,
    kernel_answer,
    kernel_table,
    latest_decodes,
    latest_kernels,
    read_shapes,
    read_tokens,
)  # fmt: skip
from app.web.tabs.page import PRECISIONS, Page
from app.web.tabs.picture import build_picture, framed
from app.web.tabs.selection import Selection
from app.web.tabs.steps import Steps
from app.web.tabs.table import build_table
from kernels.benchmark.peers import PEERS, installed_peers

PICTURES = ["Speed-up", "Roofline", "Whole model"]
SHAPES = ["1024x1024", "4096x4096", "11008x4096", "4096x11008"]
CAPTIONS = {
    "Speed-up": "Look at the dotted line: bars above it are faster than the engine that the bar names. Quantizing the "
    "activations is part of every time; all engines took turns in one run.",
    "Roofline": "See the slope: how fast the machine reads memory, measured in the same run. Points on it are bound by "
    "reading weights, so fewer stored bits are the speed; points at a flat line by arithmetic. Each is the first "
    "call on a cold cache.",
    "Whole model": "Look at tokens per second of the same model, decoded end to end. All of these are real kernels; "
    "simulated quantization is never timed.",
}
STOPPED = "Stopped. What was timed completely is kept."
EMPTY = words.empty(
    "Nothing was timed on this machine yet",
    "Here the packed engine will stand beside torch, and other engines that are installed, on the shapes you choose, "
    "each checked against integer arithmetic before it is timed. Press Time the kernels; or see what was measured on "
    "another machine, under Timings of.",
)


def build_throughput_tab(page: Page) -> None:
    """What to time on the left; speed-ups with their path and correctness mark on the right."""
    with gr.Row(elem_classes="abq-tab"):
        with gr.Column(elem_classes="abq-choices"):
            picture = gr.Radio(PICTURES, value="Speed-up", label="Picture", elem_id="throughput-picture")
            precisions = gr.Dropdown(
                PRECISIONS, value=["W2A8", "W2*A8", "W4A4", "W4A8"], multiselect=True, allow_custom_value=True,
                label="Precisions", elem_id="throughput-precisions",
            )  # fmt: skip
            shapes = gr.Dropdown(
                SHAPES, value=["4096x4096"], multiselect=True, allow_custom_value=True, label="Shapes N x K",
                elem_id="throughput-shapes",
            )  # fmt: skip
            m = gr.Dropdown(
                ["1", "8", "64"], value=["1"], multiselect=True, allow_custom_value=True, label="Tokens at once, M",
                elem_id="throughput-m",
            )  # fmt: skip
            peers = gr.Dropdown(
                installed_peers(), value=["torch"], multiselect=True, label="Compared with", info=_absent_peers(),
                elem_id="throughput-peers",
            )  # fmt: skip
            threads = gr.Number(1, label="Threads", precision=0, minimum=1, elem_id="throughput-threads")
            time_kernels = gr.Button("Time the kernels", variant="primary", elem_id="throughput-kernels")
            time_decode = gr.Button("Time the whole model", elem_id="throughput-decode")
            stop = gr.Button("Stop", elem_id="throughput-stop")
            machine = gr.Dropdown([], label="Timings of", visible=False, elem_id="throughput-machine")
            command = gr.HTML("", js_on_load=None)
        with gr.Column(elem_classes="abq-stage"):
            answer = gr.HTML(words.answer("&nbsp;"), elem_id="throughput-answer", js_on_load=None)
            empty = gr.HTML(EMPTY, js_on_load=None)
            figure = build_picture("throughput-figure")
            table = build_table("throughput-table")
    outputs = [answer, empty, figure, table, machine]

    @guarded(len(outputs))
    def show(
        text: str, picture: str, device: str | None, precisions: list[str], shapes: list[str], m: list[str]
    ) -> list[object]:
        selection = Selection.from_json(text)
        if selection.tab != "throughput":
            return [gr.skip()] * len(outputs)
        everywhere = page.services.timings.frame(shipped=True)
        devices = list(dict.fromkeys([this_device(), *everywhere["machine"]]))
        device = device if device in devices else devices[0]
        choice = gr.update(choices=devices, value=device, visible=len(devices) > 1)
        measured = everywhere[everywhere["machine"].eq(device)]
        elsewhere = "" if device == devices[0] else device
        kernels, decodes = latest_kernels(measured), latest_decodes(measured, selection.model, bool(elsewhere))
        if kernels.empty and decodes.empty:
            return [words.answer("&nbsp;"), gr.update(visible=True), "", "", choice]
        pictured = chosen_kernels(kernels, precisions or [], shapes or [], m or [])
        return [
            _answer(picture, pictured, len(kernels), decodes, elsewhere),
            gr.update(visible=False),
            *_shown(picture, pictured, kernels, decodes, selection.dark),
            choice,
        ]

    def measure(
        text: str,
        picture: str,
        precisions: list[str],
        shapes: list[str],
        m: list[str],
        peers: list[str],
        threads: float | None,
    ) -> Iterator[list[object]]:
        """Time the kernels, saying how far it is."""
        rest = [gr.skip()] * (len(outputs) - 1)
        try:
            parsed, tokens, count = read_shapes(shapes), read_tokens(m), int(threads or 1)
            yield [words.answer("Checking every path against integer arithmetic, then timing&hellip;"), *rest]
            others, services = peers or [], page.services
            work = Steps(
                lambda say: services.throughput.time_kernels(precisions or [], parsed, tokens, count, say, others)
            )
            for done, measured in enumerate(work, start=1):
                said = f"{done} timed; the last was {measured.precision} on {measured.path}&hellip;"
                yield [words.answer(said), *rest]
            picture = picture if picture != PICTURES[2] else PICTURES[0]
            yield show(text, picture, this_device(), precisions, shapes, m)
        except EXPECTED as error:
            yield [words.problem(error), *rest]

    def decode(text: str, precisions: list[str], shapes: list[str], m: list[str]) -> Iterator[list[object]]:
        """Time the whole model, all columns in turn."""
        selection, rest = Selection.from_json(text), [gr.skip()] * len(outputs)
        columns = ["fp32", "bf16", "int8", *dict.fromkeys([selection.precision, "W2A8", "W4A4"])]
        columns += [selection.run] if selection.run else []
        yield [words.answer(f"Packing {len(columns)} columns&hellip;"), *rest]
        try:
            for done in Steps(
                lambda say: page.services.throughput.time_decode(columns, model=selection.model, on_token=say)
            ):
                yield [words.answer(f"Decoding {len(columns)} columns in turn: token {done}&hellip;"), *rest]
            yield [*show(text, PICTURES[2], this_device(), precisions, shapes, m), PICTURES[2]]
        except EXPECTED as error:
            yield [words.problem(error), *rest]

    cases = [precisions, shapes, m]
    seen = [page.selection.change, *(w.input for w in (picture, machine, *cases))]
    gr.on(seen, show, [page.selection, picture, machine, *cases], outputs, trigger_mode="always_last", **PRIVATE)
    form = [page.selection, picture, precisions, shapes, m, peers, threads]
    busy = {**PRIVATE, "concurrency_limit": 1, "concurrency_id": "model"}
    measuring = [
        time_kernels.click(measure, form, outputs, **busy),
        time_decode.click(decode, [page.selection, *cases], [*outputs, picture], **busy),
    ]
    stop.click(lambda: words.answer(STOPPED), None, answer, cancels=measuring, **PRIVATE)
    gr.on([w.change for w in form[2:]], _command, form[2:], command, trigger_mode="always_last", **PRIVATE)
    page.selection.change(_command, form[2:], command, **PRIVATE)


def _shown(picture: str, pictured: pd.DataFrame, kernels: pd.DataFrame, decodes: pd.DataFrame, dark: bool) -> list[str]:
    """Picture, and the table of all cases."""
    if picture == "Whole model":
        figure = framed(decode_figure(decodes, dark), CAPTIONS[picture], "abq/throughput.csv", "decode")
        return [figure, decode_table(decodes)]
    draw = speedup_figure if picture == "Speed-up" else roofline_figure
    figure = framed(draw(pictured, dark), CAPTIONS.get(picture, ""), "abq/throughput.csv", "kernels")
    return [figure, kernel_table(kernels)]


def _answer(picture: str, kernels: pd.DataFrame, timed: int, decodes: pd.DataFrame, elsewhere: str) -> str:
    """One sentence about the picture. timed: cases in all.  elsewhere: the device, where it is not this one."""
    where = f" Measured on {words.escape(elsewhere)}, not on this machine." if elsewhere else ""
    if picture == "Whole model":
        if decodes.empty:
            return words.answer("The whole model was not timed yet: press Time the whole model.")
        best = decodes.loc[decodes["tokens_per_second"].idxmax()]
        return words.answer(
            f"Decoding {words.escape(str(best['model']))} one token at a time, "
            f"<b>{words.escape(str(best['column']))}</b> is fastest with "
            f"<b>{formatting.tokens_per_second(best['tokens_per_second'])}</b> on "
            f"{words.escape(str(best['path']))}.{where}"
        )
    part = f" The picture has {len(kernels)} of {timed} cases: the form chooses." if len(kernels) < timed else ""
    return words.answer(kernel_answer(kernels) + where + part)


def _absent_peers() -> str | None:
    """What else could be compared with, and how."""
    installed = installed_peers()
    absent = [name for name in PEERS if name not in installed]
    return f"{' and '.join(absent)}: pip install 'abq-explorer[peers]'" if absent else None


def _command(precisions: list[str], shapes: list[str], m: list[str], peers: list[str], threads: float | None) -> str:
    options = {"precisions": precisions, "shapes": shapes, "m": m, "peers": peers}
    line = ["abq", "bench", "kernels", "--threads", str(int(threads or 1))]
    for name, values in options.items():
        line += [f"--{name}", ",".join(values or [])]
    return words.command(shlex.join(line))
