"""What a calibration says while it works. A callback gets these and may raise to stop it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """The walk begins. `steps_per_block` is 0 for methods that learn nothing."""

    blocks: int
    steps_per_block: int


@dataclass(frozen=True)
class StepDone:
    """One optimisation step of a block is done; `step` counts from 1 to `steps`."""

    block: int
    step: int
    steps: int


@dataclass(frozen=True)
class EpochDone:
    """One pass over the calibration segments; `losses` are means over it: total, dlc, akl, mse."""

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


Event = Started | StepDone | EpochDone | BlockDone | Message
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback of a caller that does not listen."""
