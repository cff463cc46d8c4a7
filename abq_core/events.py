"""What a calibration says while it works. A callback gets these and may raise to stop it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from abq_core.text.records import TextRecord


@dataclass(frozen=True)
class Started:
    """The walk begins. `steps_per_block` is 0 for methods that learn nothing.

    `end_to_end_steps`: of the pass after the blocks, in which all learn together; 0 without one.
    """

    blocks: int
    steps_per_block: int
    end_to_end_steps: int = 0


@dataclass(frozen=True)
class TextChosen:
    """Calibration text is read; `record` says which. `part`: what for, "blocks" or "end_to_end"."""

    record: TextRecord
    part: str = "blocks"


@dataclass(frozen=True)
class StepDone:
    """One optimisation step of a block is done; `step` counts from 1 to `steps`.

    A `block` that is the number of blocks stands for all of them together: the end-to-end pass.
    """

    block: int
    step: int
    steps: int


@dataclass(frozen=True)
class EpochDone:
    """One pass over the calibration segments; `losses` are means over it: total, dlc, akl, mse.

    Of the end-to-end pass (see StepDone) a tenth, with kl, in nats a token.
    """

    block: int
    epoch: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class BlockDone:
    """A block is in the store. `adopted`: it was there already. `distances`: its output against full precision."""

    block: int
    seconds: float
    adopted: bool
    distances: Mapping[str, float]


@dataclass(frozen=True)
class Message:
    """A sentence for the log."""

    text: str


Event = TextChosen | Started | StepDone | EpochDone | BlockDone | Message
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback of a caller that does not listen."""
