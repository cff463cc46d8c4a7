"""The progress of a job and its estimated time left, from the calibration events so far."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from abq_core.events import BlockDone, Event, Started, StepDone
from app import formatting
from app.jobs.step_times import BLOCK_OVERHEAD_STEPS, END_TO_END_STEPS, StepTimes

# Shares of a job's time
WEIGHTS = {"calibrate": 0.80, "diagnose": 0.08, "evaluate": 0.12}
WEIGHTS_WITHOUT_LEARNING = {"calibrate": 0.25, "diagnose": 0.30, "evaluate": 0.45}


@dataclass
class Progress:
    """The fraction of a job that is done, 0..1, which never decreases.

    Blocks that an earlier attempt finished count as done but not towards the rate.  learns: whether the calibration
    optimises anything, which decides how the job's time is divided.  task: for the messages.
    """

    learns: bool
    clock: Callable[[], float] = time.monotonic
    fraction: float = 0.0
    task: Literal["calibration", "import"] = "calibration"
    message: str = ""
    _weights: dict[str, float] = field(init=False)
    blocks: int | None = None
    _steps: int = 0
    _pass_steps: int = 0
    _since: float = field(init=False)
    _from: float = 0.0
    _times: StepTimes | None = None  # while blocks are calibrated

    def __post_init__(self) -> None:
        self._weights = WEIGHTS if self.learns else WEIGHTS_WITHOUT_LEARNING
        self._since = self.clock()
        self.message = self.message or f"Loading the model; next: {self.task}."

    def calibration_event(self, event: Event) -> None:
        """Update the progress and its message from a calibration event."""
        if isinstance(event, Started):
            self._times = StepTimes(event, self.clock)
            self.blocks, self._steps = event.blocks, event.steps_per_block
            self._pass_steps = event.end_to_end_steps
            self.message = f"{self._doing} block 1 of {self.blocks}."
            self._restart_clock()
        elif isinstance(event, StepDone) and event.block == self.blocks:
            self._calibrated(event.block, 0, event.step)
            self.message = f"All blocks learn together, step {event.step} of {event.steps}; next: diagnostics."
        elif isinstance(event, StepDone):
            self._calibrated(event.block, event.step)
            step = f"step {event.step} of {event.steps}"
            self.message = f"{self._doing} block {event.block + 1} of {self.blocks}, {step}; {self._next(event.block)}"
        elif isinstance(event, BlockDone):
            self._calibrated(event.block + 1, 0)
            done = "already stored" if event.adopted else f"done in {formatting.seconds(event.seconds)}"
            self.message = f"Block {event.block + 1} of {self.blocks} {done}; {self._next(event.block)}"
            if event.adopted:
                self._restart_clock()
        if self._times is not None:
            self._times.record(event)

    def diagnosing(self, part: float = 0.0) -> None:
        """Update the progress of the diagnostics. part: 0..1."""
        self._times = None
        self._move_to(self._weights["calibrate"] + self._weights["diagnose"] * part)
        between = "before and after calibration" if self.task == "calibration" else "with those of the base model"
        self.message = f"Comparing distributions {between}; next: evaluation."

    def evaluating(self, part: float = 0.0) -> None:
        """Update the progress of the evaluation. part: 0..1."""
        self._times = None
        self._move_to(1.0 - self._weights["evaluate"] * (1.0 - part))
        self.message = "Measuring perplexity and KL divergence from full precision; this is the last step."

    @property
    def eta_seconds(self) -> float | None:
        """Estimated seconds left; None until something has been timed.

        From the steps that this process has timed; afterwards, and if nothing is learned, from the rate so far.
        """
        calibration = None if self._times is None else self._times.seconds_left
        if calibration is not None:
            done_share = self._weights["calibrate"]
            return calibration.left + calibration.total * (1.0 - done_share) / done_share
        done = self.fraction - self._from
        return None if done < 1e-3 else (self.clock() - self._since) * (1.0 - self.fraction) / done

    @property
    def _doing(self) -> str:
        return "Calibrating" if self.task == "calibration" else "Importing"

    def _calibrated(self, blocks: int, steps: int, pass_steps: int = 0) -> None:
        per_block = self._steps + BLOCK_OVERHEAD_STEPS
        per_pass_step = END_TO_END_STEPS * (self.blocks or 1)
        done = blocks * per_block + steps + per_pass_step * pass_steps
        self._move_to(
            self._weights["calibrate"] * done / ((self.blocks or 1) * per_block + per_pass_step * self._pass_steps)
        )

    def _next(self, block: int) -> str:
        if block + 1 < (self.blocks or 1):
            return f"next: block {block + 2}."
        return "next: all blocks together." if self._pass_steps else "next: diagnostics."

    def _move_to(self, fraction: float) -> None:
        self.fraction = min(max(self.fraction, fraction), 1.0)

    def _restart_clock(self) -> None:
        self._since, self._from = self.clock(), self.fraction
