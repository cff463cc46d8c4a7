"""The time left of a calibration, from the steps and blocks that this process has timed.

A worker that takes over a job knows nothing about its earlier speed. It must not mistake the preparation of a block for
the time of its first steps, so both are timed separately.
"""

from collections.abc import Callable
from typing import NamedTuple

from abq_core.events import BlockDone, Event, Started, StepDone

# Assumed until they are timed, in optimizer steps of a block
BLOCK_OVERHEAD_STEPS = 4.0  # collecting, rounding and writing a block
END_TO_END_STEPS = 3.0  # one step of the end-to-end pass, per block: it trains all blocks


class SecondsLeft(NamedTuple):
    """Seconds of the calibration. left: from now.  total: from its start, at the present speed."""

    left: float
    total: float


class _Mean:
    """The mean of the durations so far."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, seconds: float) -> None:
        self._sum, self._count = self._sum + seconds, self._count + 1

    def or_else(self, assumed: float) -> float:
        return self._sum / self._count if self._count else assumed

    @property
    def known(self) -> bool:
        return self._count > 0


class StepTimes:
    """Times optimizer steps, blocks without their steps, and steps of the end-to-end pass."""

    def __init__(self, started: Started, clock: Callable[[], float]) -> None:
        self._plan, self._clock = started, clock
        self._step, self._pass_step, self._overhead = _Mean(), _Mean(), _Mean()
        self._blocks_done = self._steps_done = self._pass_steps_done = 0
        self._block_start = self._last_step = clock()
        self._stepping = 0.0  # seconds of the present block's timed steps

    def record(self, event: Event) -> None:
        """Time the event, which has just happened."""
        if isinstance(event, StepDone):
            self._record_step(event)
        elif isinstance(event, BlockDone) and not self._pass_steps_done:
            if not event.adopted:
                self._overhead.add(self._clock() - self._block_start - self._stepping)
            self._blocks_done, self._steps_done = event.block + 1, 0
            self._block_start, self._stepping = self._clock(), 0.0

    def _record_step(self, event: StepDone) -> None:
        of_pass = event.block == self._plan.blocks
        seconds = self._clock() - self._last_step
        if event.step > 1:  # the first includes the preparation
            (self._pass_step if of_pass else self._step).add(seconds)
            self._stepping += seconds
        if of_pass:
            self._pass_steps_done = event.step
        else:
            self._blocks_done, self._steps_done = event.block, event.step
        self._last_step = self._clock()

    @property
    def seconds_left(self) -> SecondsLeft | None:
        """None until a step has been timed; always None if nothing is learned."""
        if not self._step.known and not self._pass_step.known:
            return None
        plan, step = self._plan, self._step.or_else(0.0)
        overhead = self._overhead.or_else(BLOCK_OVERHEAD_STEPS * step)
        pass_step = self._pass_step.or_else(END_TO_END_STEPS * step * plan.blocks)
        block = plan.steps_per_block * step + overhead
        pass_left = (plan.end_to_end_steps - self._pass_steps_done) * pass_step
        total = plan.blocks * block + plan.end_to_end_steps * pass_step
        if self._pass_steps_done:
            return SecondsLeft(pass_left, total)
        return SecondsLeft((plan.blocks - self._blocks_done) * block - self._steps_done * step + pass_left, total)
