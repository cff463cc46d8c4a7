"""The length of a calibration as one slider, with its time and the KL of runs that were made here."""

from typing import NamedTuple

import gradio as gr
from gradio.events import Dependency

from abq_core.methods import METHOD_TABLE, METHODS
from abq_core.spec import DEFAULT_END_TO_END_SEGMENTS, CalibrationSpec
from app.formatting import nats, seconds
from app.web.page.callbacks import PRIVATE, Updates, event
from app.web.page.context import Page
from app.web.tabs.calibrate_form.method_choice import OWN, runs_made_here

STEP, WHOLE = 10, 100  # percent of the method's epochs and of the default end-to-end segments


class Length(NamedTuple):
    """Epochs per block, and segments of the end-to-end pass."""

    epochs: int
    pass_segments: int


def build_length() -> gr.Slider:
    """The slider; `expectation` is its info."""
    return gr.Slider(STEP, WHOLE, value=WHOLE, step=STEP, label="Length in percent", elem_id="calibrate-length")


def wire_length(
    length: gr.Slider, method: gr.Radio, epochs: gr.Number, pass_segments: gr.Number, preset: gr.Radio
) -> Dependency:
    """Keep the slider and the numbers in step. Returns the event after which the numbers follow the slider."""

    @event
    def choose(percent: float, chosen: str) -> Updates:
        now = length_of(percent, chosen)
        return {epochs: now.epochs, pass_segments: now.pass_segments, preset: OWN}

    epochs.input(percent_of, [epochs, method], length, **PRIVATE)
    outputs = [epochs, pass_segments, preset]
    return length.input(choose, [length, method], outputs, trigger_mode="always_last", **PRIVATE)


def length_of(percent: float, method: str) -> Length:
    """The length at a position of the slider; 0 epochs for a method that learns nothing."""
    share = percent / WHOLE
    epochs = max(1, round(share * METHOD_TABLE[method].epochs)) if METHODS[method].learns else 0
    return Length(epochs, max(1, round(share * DEFAULT_END_TO_END_SEGMENTS)))


def percent_of(epochs: float | None, method: str) -> int:
    """The position of the slider that is nearest to this number of epochs."""
    share = WHOLE if epochs is None else WHOLE * epochs / METHOD_TABLE[method].epochs
    return min(max(STEP * round(share / STEP), STEP), WHOLE)


def expectation(page: Page, spec: CalibrationSpec, expected_seconds: float | None) -> str:
    """The time of a calibration, and the KL of the runs made here that are nearest in length."""
    if not spec.active_epochs:
        return f"{spec.method} learns nothing here, so there is no length to choose."
    time = "" if expected_seconds is None else f"About {seconds(expected_seconds)}. "
    known = _known(page, spec)
    if not known:
        return f"{time}No run of {spec.method} at {spec.precision} was made here yet."
    shorter = [epochs for epochs in known if epochs <= spec.active_epochs]
    longer = [epochs for epochs in known if epochs >= spec.active_epochs]
    nearest = sorted({*shorter[-1:], *longer[:1]})
    told = [f"KL {nats(known[epochs])} with {epochs} epoch{'s' * (epochs > 1)}" for epochs in nearest]
    return f"{time}Runs made here: {', '.join(told)}."


def _known(page: Page, spec: CalibrationSpec) -> dict[int, float]:
    """KL by epochs of the newest run of each length, shortest first."""
    runs = runs_made_here(page, spec)
    runs = runs[runs["method"].eq(spec.method)]
    found: dict[int, float] = {}
    for run, kl in zip(runs["run"], runs["kl_mean"], strict=True):  # newest first
        made = CalibrationSpec.from_dict(page.services.runs.get(run).spec)
        found.setdefault(made.active_epochs, float(kl))
    return dict(sorted(found.items()))
