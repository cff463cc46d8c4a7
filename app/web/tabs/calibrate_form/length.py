"""The length of a calibration as one slider, with its time and the KL of runs that were made here."""

from dataclasses import replace
from typing import NamedTuple

import gradio as gr
from gradio.events import Dependency

from abq_core.methods import METHOD_TABLE
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
    """The length at a position of the slider."""
    whole = Length(METHOD_TABLE[method].epochs, DEFAULT_END_TO_END_SEGMENTS)
    return Length(*(max(1, round(percent / WHOLE * number)) for number in whole))


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
        return f"{time}No other length of this calibration was run here yet."
    now = _length(spec)
    shorter, longer = [one for one in known if one <= now], [one for one in known if one >= now]
    nearest = sorted({*shorter[-1:], *longer[:1]})
    return f"{time}Runs made here: {', '.join(f'KL {nats(known[one])} with {_said(one, spec)}' for one in nearest)}."


def _known(page: Page, spec: CalibrationSpec) -> dict[Length, float]:
    """KL of the newest run of each length that agrees with `spec` in everything else, shortest first."""
    runs = runs_made_here(page, spec)
    runs = runs[runs["method"].eq(spec.method)]
    found: dict[Length, float] = {}
    for run, kl in zip(runs["run"], runs["kl_mean"], strict=True):  # newest first
        made = CalibrationSpec.from_dict(page.services.runs.get(run).spec)
        if replace(made, epochs=spec.epochs, end_to_end_segments=spec.end_to_end_segments) == spec:
            found.setdefault(_length(made), float(kl))
    return dict(sorted(found.items()))


def _length(spec: CalibrationSpec) -> Length:
    return Length(spec.active_epochs, spec.active_end_to_end_segments)


def _said(length: Length, spec: CalibrationSpec) -> str:
    epochs = f"{length.epochs} epoch{'s' * (length.epochs > 1)}"
    return f"{epochs} and {length.pass_segments:,} segments end to end" if spec.learns_end_to_end else epochs
