"""How far a job is and how long it still takes, from the steps that were timed. Leaves storing it to the worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from abq_core.events import BlockDone, Event, Started, StepDone
from app import formatting

WEIGHTS = {"calibrate": 0.80, "diagnose": 0.08, "evaluate": 0.12}
WEIGHTS_WITHOUT_LEARNING = {"calibrate": 0.25, "diagnose": 0.30, "evaluate": 0.45}
_STEPS_OF_A_BLOCK_ITSELF = 4.0  # collecting, rounding and writing a block take about as long as this many steps
_STEPS_OF_A_PASS_STEP = 3.0  # a step of the end-to-end pass, for each block: more tokens, and the pass back through all


@dataclass
class Progress:
    """The share of a job that is done, 0..1. It never falls; the rate leaves out what an earlier attempt had done."""

    learns: bool
    clock: Callable[[], float] = time.monotonic
    fraction: float = 0.0
    message: str = "Loading the model; next: calibration."
    _weights: dict[str, float] = field(init=False)
    blocks: int | None = None
    _steps: int = 0
    _pass_steps: int = 0
    _since: float = field(init=False)
    _from: float = 0.0

    def __post_init__(self) -> None:
        self._weights = WEIGHTS if self.learns else WEIGHTS_WITHOUT_LEARNING
        self._since = self.clock()

    def calibration_event(self, event: Event) -> None:
        """Take a calibration event into account."""
        if isinstance(event, Started):
            self.blocks, self._steps = event.blocks, event.steps_per_block
            self._pass_steps = event.end_to_end_steps
            self.message = f"Calibrating block 1 of {self.blocks}."
            self._restart_clock()
        elif isinstance(event, StepDone) and event.block == self.blocks:
            self._calibrated(event.block, 0, event.step)
            self.message = f"All blocks learn together, step {event.step} of {event.steps}; next: diagnostics."
        elif isinstance(event, StepDone):
            self._calibrated(event.block, event.step)
            step = f"step {event.step} of {event.steps}"
            self.message = f"Calibrating block {event.block + 1} of {self.blocks}, {step}; {self._next(event.block)}"
        elif isinstance(event, BlockDone):
            self._calibrated(event.block + 1, 0)
            done = "taken over from before" if event.adopted else f"done in {formatting.seconds(event.seconds)}"
            self.message = f"Block {event.block + 1} of {self.blocks} {done}; {self._next(event.block)}"
            if event.adopted:
                self._restart_clock()

    def diagnosing(self, part: float = 0.0) -> None:
        """part: 0..1 of the diagnostics."""
        self._move_to(self._weights["calibrate"] + self._weights["diagnose"] * part)
        self.message = "Comparing distributions before and after; next: evaluation."

    def evaluating(self, part: float = 0.0) -> None:
        """part: 0..1 of the evaluation."""
        self._move_to(1.0 - self._weights["evaluate"] * (1.0 - part))
        self.message = "Measuring perplexity and distance to full precision; this is the last part."

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at the rate so far, or None while nothing was timed."""
        done = self.fraction - self._from
        return None if done < 1e-3 else (self.clock() - self._since) * (1.0 - self.fraction) / done

    def _calibrated(self, blocks: int, steps: int, pass_steps: int = 0) -> None:
        per_block = self._steps + _STEPS_OF_A_BLOCK_ITSELF
        per_pass_step = _STEPS_OF_A_PASS_STEP * (self.blocks or 1)
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
